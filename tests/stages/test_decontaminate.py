"""Which documents share 13 words with an evaluation example, and what happens to them."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.settings.per_stage import DecontaminateSettings, TaskExamplesSettings
from groupmates.stages import decontaminate

DATA = Path(os.environ.get("GROUPMATES_DATA", "data"))
SETTINGS = DecontaminateSettings(text_columns=small.COLUMNS, bad_records="stop")
QUERY = [f"q{i}" for i in range(14)]


def read_examples(folder: Path, *paths: str | Path) -> Path:
    output = folder / "examples.parquet"
    decontaminate.run_examples(
        TaskExamplesSettings(), examples=list(map(str, paths)), output=output
    )
    return output


def overlaps(folder: Path, pool: list[str], examples: Path) -> list[dict]:
    shards = small.check_pool([[file] for file in pool], folder)
    found = []
    for number, (file, check) in enumerate(zip(pool, shards, strict=True)):
        output = folder / f"overlaps-{number}.parquet"
        decontaminate.run(SETTINGS, pool=[file], check=check, examples=examples, output=output)
        found += read_table(output, "overlaps").to_pylist()
    return found


def tasks_folder(folder: Path, **changed: object) -> Path:
    """One task of each type; `changed` is of the first one's entry."""
    query, lead = " ".join(QUERY), "The trophy does not fit into the suitcase since"
    rows = {
        "choice": [{"query": query, "choices": ["yes indeed", "not at all"], "gold": 0}],
        "schema": [{"context_options": [f"{lead} it", f"{lead} he"], "continuation": "is too big"}],
        "model": [{"context": "A short one", "continuation": "here"}],
    }
    types = ("multiple_choice", "schema", "language_modeling")
    entries = []
    for (name, examples), kind in zip(rows.items(), types, strict=True):
        small.write_lines(folder / f"{name}.jsonl", examples)
        entries.append({"name": name, "file": f"{name}.jsonl", "type": kind})
    entries[0] |= changed
    entries.append({"name": "absent", "file": "absent.jsonl", "type": "schema", "missing": True})
    entries.append({"name": "again", "file": "model.jsonl", "type": "language_modeling"})
    (folder / "tasks.yaml").write_text(json.dumps({"tasks": entries}))  # JSON is YAML
    return folder


def pool_of(folder: Path, *texts: str) -> list[str]:
    rows = [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)]
    return small.marked(folder / "pool", [small.write_lines(folder / "pool/1.jsonl", rows)])


def test_examples_of_every_type_are_read_and_a_shared_beginning_is_kept_once(tmp_path):
    rows = read_table(read_examples(tmp_path, tasks_folder(tmp_path / "tasks")), "task_examples")
    lead = "the trophy does not fit into the suitcase since"
    assert [(r["task"], r["example"], r["words"]) for r in rows.to_pylist()] == [
        ("choice", 0, " ".join([*QUERY, "yes indeed"])),
        ("choice", 0, " ".join([*QUERY[2:], "not at all"])),
        ("schema", 0, f"{lead} it is too big"),
        ("schema", 0, f"{lead} he is too big"),
        ("model, again", 0, "a short one here"),
    ]


def test_a_document_is_found_by_question_and_answer_whatever_its_case_and_punctuation(tmp_path):
    texts = [
        "Nothing of the kind.",
        "So: " + ", ".join(QUERY).upper() + "!",  # two windows of the question
        "-".join(QUERY[3:]) + " Not at…",  # one of question and second answer
        " ".join(QUERY[:12]),  # one word too few
        "A short one here",  # an example too short for a window
    ]
    examples = read_examples(tmp_path, tasks_folder(tmp_path / "tasks"))
    found = overlaps(tmp_path, pool_of(tmp_path, *texts), examples)
    assert [(r["doc_id"], r["source_row"], r["windows"], r["words"]) for r in found] == [
        ("d1", 1, 2, " ".join(QUERY[:13])),
        ("d2", 2, 1, " ".join([*QUERY[3:], "not", "at"])),
    ]
    assert {(r["task"], r["example"]) for r in found} == {("choice", 0)}


def test_files_of_examples_are_tasks_of_their_own_and_shards_change_nothing(tmp_path):
    rows = small.documents(40)
    pool = [small.write_lines(tmp_path / f"pool/{n}.jsonl", rows[n::2]) for n in range(2)]
    files = [
        small.write_lines(tmp_path / f"{name}.jsonl", [{"text": "?"}, example])
        for name, example in {
            "text": {"text": rows[5]["text"]},
            "pair": {"prompt": rows[6]["text"][:50], "response": rows[6]["text"][51:]},
        }.items()
    ]
    found = overlaps(
        tmp_path, small.marked(tmp_path / "pool", pool), read_examples(tmp_path, *files)
    )
    long = [n for n in (5, 6) if len(rows[n]["text"].split()) >= 13]
    assert long
    names = {5: str(files[0]), 6: str(files[1])}
    places = {(r["doc_id"], r["source_file"], r["task"], r["example"]) for r in found}
    assert {(rows[n]["id"], f"{n % 2}.jsonl", names[n], 1) for n in long} <= places


def test_bad_examples_are_refused_with_their_place(tmp_path):
    def refused(*paths: Path) -> str:
        with pytest.raises(UserError) as caught:
            read_examples(tmp_path, *paths)
        return str(caught.value)

    (tmp_path / "bad.jsonl").write_text('{"text": "one"}\n{"text": \n')
    assert "bad.jsonl, line 2" in refused(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"passage": "one"}\n')
    assert "the fields ['passage']" in refused(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"query": "one", "choices": []}\n')
    assert "a text in the field 'choices'" in refused(tmp_path / "bad.jsonl")
    (tmp_path / "bad.jsonl").write_text("\n")
    assert "at least one row" in refused(tmp_path / "bad.jsonl")
    told = refused(tasks_folder(tmp_path / "tasks", type="generation"))
    assert "type: Input should be" in told and "'choice'" in told and "tasks.yaml" in told
    (tmp_path / "tasks/tasks.yaml").write_text("- name: x\n")
    assert "a list `tasks`" in refused(tmp_path / "tasks")


@pytest.mark.skipif(not DATA.exists(), reason=f"no pool and tasks in {DATA}: set GROUPMATES_DATA")
def test_the_known_documents_of_the_mixed_pool_are_found_and_no_others(tmp_path):
    """The list was made by another program, without the BIG-bench tasks."""
    known = {
        row["id"]: row["tasks"]
        for row in map(json.loads, (DATA / "pool/eval_overlap.jsonl").read_text().splitlines())
    }
    pool = small.marked(DATA / "pool", sorted((DATA / "pool").glob("shard_*.jsonl.zst")))
    found: dict[str, dict[str, int]] = {}
    for row in overlaps(tmp_path, pool, read_examples(tmp_path, DATA / "core")):
        found.setdefault(row["doc_id"], {})[row["task"]] = row["windows"]
    assert found == known
