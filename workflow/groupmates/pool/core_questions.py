"""Questions of a CORE task: their file, and the prompts that a model reads.

A prompt has examples, each with its answer, an empty line behind each, and the question. So builds
karpathy/nanochat's `core_eval.py` (MIT) them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from groupmates.maths.in_context import Kind, Question, question_of, shots_of
from groupmates.pool.core_tasks import Task
from groupmates.pool.documents import BadRecord
from groupmates.pool.records import parsed

FIELDS = {  # the options, and the text that they share
    "multiple_choice": ("choices", "query"),
    "schema": ("context_options", "continuation"),
    "language_modeling": ("", "context"),
}
ASKED_TOGETHER = 200  # questions whose prompts are in memory as text
NEEDED = {
    "multiple_choice": "query, a text; choices, two texts or more; gold, the right one's number from 0",
    "schema": "continuation, a text; context_options, two texts or more; gold, the right one's number "
    "from 0",
    "language_modeling": "context and continuation, two texts",
}


def read_questions(folder: Path, task: Task) -> list[tuple[int, dict[str, Any]]]:
    """The questions of a task's file, in its order, with their lines, counted from 1.

    Lines of JSON, plain, gzip or zstd, or a table. Blank lines are passed over. A record without what
    its type of task needs raises `UserError` with the line.
    """

    def question(row: int, values: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        _check(task.type, values)
        return row + 1, values

    return list(parsed(str(folder / str(task.file)), question))


def _check(kind: Kind, values: dict[str, Any]) -> None:
    options, shared = FIELDS[kind]
    text = values.get(shared)
    if not isinstance(text, str):
        raise _wrong(kind, f"{shared}: {text!r}")
    if kind == "language_modeling":
        answer = values.get("continuation")
        if not isinstance(answer, str) or not answer.strip():
            raise _wrong(kind, f"continuation: {answer!r}")
        return
    listed, gold = values.get(options), values.get("gold")
    if not isinstance(listed, list) or len(listed) < 2:
        raise _wrong(kind, f"{options}: {listed!r}")
    if not all(isinstance(option, str) and option.strip() for option in listed):
        raise _wrong(kind, f"{options}: {listed!r}")
    if type(gold) is not int or not 0 <= gold < len(listed):
        raise _wrong(kind, f"gold: {gold!r}, of {len(listed)} options")
    if kind == "schema" and not text.strip():
        raise _wrong(kind, f"{shared}: {text!r}")


def _wrong(kind: Kind, found: str) -> BadRecord:
    return BadRecord(
        "no question",
        f"a question of the type {kind}: {NEEDED[kind]}",
        f"{found:.200}",
        "correct the line, or the task's type in tasks.yaml",
    )


def gold_of(values: dict[str, Any]) -> int:
    """The number of the right option; 0 where there is one."""
    return values.get("gold", 0)


def prompts(
    task: Task, shots: list[dict[str, Any]], asked: dict[str, Any]
) -> tuple[str, list[str]]:
    """The prompt up to the right answer, and the whole prompt with each of the options."""
    delimiter = task.continuation_delimiter
    head = "".join(
        f"{context}{delimiter}{answer}\n\n"
        for shot in shots
        for context, answer in [_options(task.type, shot)[gold_of(shot)]]
    )
    options = _options(task.type, asked)
    whole = [f"{head}{context}{delimiter}{answer}" for context, answer in options]
    # A token of a blank at the end would be another than the one that begins the answer.
    return f"{head}{options[gold_of(asked)][0]}{delimiter}".rstrip(), whole


def _options(kind: Kind, values: dict[str, Any]) -> list[tuple[str, str]]:
    """Context and answer of each option."""
    if kind == "multiple_choice":
        return [(values["query"], choice) for choice in values["choices"]]
    if kind == "schema":
        return [(context, values["continuation"]) for context in values["context_options"]]
    return [(values["context"].strip(), values["continuation"])]


def tokenised(
    task: Task,
    questions: Sequence[dict[str, Any]],
    asked: Sequence[int],
    tokens: Callable[[list[str]], Iterable[list[int]]],
    start: int,
) -> Iterator[Question]:
    """The questions of the numbers `asked` as rows of tokens, each behind the id `start`.

    `questions`: all, in their order, from which the examples come. `tokens`: those of each text.
    """
    for first in range(0, len(asked), ASKED_TOGETHER):
        block = asked[first : first + ASKED_TOGETHER]
        drawn = {i: shots_of(i, len(questions), task.num_fewshot) for i in block}
        built = [prompts(task, [questions[j] for j in drawn[i]], questions[i]) for i in block]
        texts = [text for before, whole in built for text in (before, *whole)]
        found = (np.array([start, *ids], np.int32) for ids in tokens(texts))
        for i, (before, whole) in zip(block, built, strict=True):
            head, *rows = (next(found) for _ in range(1 + len(whole)))
            gold = gold_of(questions[i])
            answer_bytes = len(whole[gold].encode()) - len(before.encode())
            yield question_of(task.type, rows, head, gold, answer_bytes)
