"""Pool documents that share 13 words in a row with an example of an evaluation task."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from groupmates.artefacts.store import Provenance, digest, read_table, write_table
from groupmates.maths.word_windows import WINDOW, Windows, words
from groupmates.pool.evaluation_tasks import TaskExample, read_task, read_tasks
from groupmates.pool.identity import sha256_of
from groupmates.pool.listing import TASKS, expand_range
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import DecontaminateSettings, TaskExamplesSettings
from groupmates.stages.shard_rows import Shard, blocks


def run_examples(settings: TaskExamplesSettings, *, examples: list[str], output: Path) -> None:
    """Write the words of the examples in these files, and in these folders of tasks."""
    paths = [path for pattern in examples for path in expand_range(pattern)]
    tasks = read_tasks(paths)
    columns: dict[str, list] = {"task": [], "example": [], "words": []}
    for task in Progress("decontaminate examples", len(tasks), "files").over(tasks):
        for example in read_task(task):
            for text in texts_of(example):
                columns["task"].append(example.task)
                columns["example"].append(example.row)
                columns["words"].append(" ".join(text))
    inputs = {f"examples[{i}]": sha256_of(task.path) for i, task in enumerate(tasks)}
    for path in paths:
        if Path(path).is_dir():
            inputs[f"{path}/{TASKS}"] = digest(Path(path) / TASKS)
    provenance = Provenance("decontaminate", settings.model_dump(mode="json"), inputs)
    write_table(output, "task_examples", provenance, columns)


def texts_of(example: TaskExample) -> Iterator[list[str]]:
    """The words of each text of an example; of a beginning that came before, only the last twelve."""
    seen: set[str] = set()
    for beginning, end in example.texts:
        before = words(beginning)
        yield [*(before[-(WINDOW - 1) :] if beginning in seen else before), *words(end)]
        seen.add(beginning)


def run(
    settings: DecontaminateSettings, *, pool: list[str], check: Path, examples: Path, output: Path
) -> None:
    """Write which documents of the files `pool`, which `check` lists, share a window with an example.

    There is one row for each document and task.
    """
    listed = read_table(examples, "task_examples")
    task_X, example_X = listed["task"].to_pylist(), listed["example"].to_pylist()
    tasks = list(dict.fromkeys(task_X))
    windows = Windows(listed["words"].to_pylist(), [tasks.index(task) for task in task_X])
    shard = Shard.of(pool, check)
    names = ("doc_id", "source_file", "source_row", "task", "example", "windows", "words")
    columns: dict[str, list] = {name: [] for name in names}
    progress = Progress(f"decontaminate {output.stem}", shard.documents, "documents")
    for file, documents in blocks(0, shard, settings.text_columns, settings.bad_records):
        at: dict[tuple[int, str], int] = {}  # document and task -> row
        for found in windows.shared(d.text for d in documents):
            document = documents[found.text]
            for x in found.examples:
                if (row := at.get((found.text, task_X[x]))) is not None:
                    columns["windows"][row] += 1
                    continue
                at[found.text, task_X[x]] = len(columns["windows"])
                columns["doc_id"].append(document.doc_id)
                columns["source_file"].append(file.name)
                columns["source_row"].append(document.row)
                columns["task"].append(task_X[x])
                columns["example"].append(example_X[x])
                columns["windows"].append(1)
                columns["words"].append(" ".join(found.words))
        progress.advance(len(documents))
    progress.finish()
    inputs = shard.inputs | {"examples": digest(examples)}
    provenance = Provenance("decontaminate", settings.model_dump(mode="json"), inputs)
    write_table(output, "overlaps", provenance, columns)
    hit = len(dict.fromkeys(zip(columns["source_file"], columns["source_row"], strict=True)))
    note(
        "decontaminate",
        f"{hit:,} of {shard.documents:,} documents share {WINDOW} words with a task",
    )
