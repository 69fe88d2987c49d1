"""What models have to read for CORE: counted on some questions of each task. Light: no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from groupmates.cost.flops import Shape
from groupmates.maths.in_context import Question, fitted, order_of
from groupmates.pool.core_questions import read_questions, tokenised
from groupmates.pool.core_tasks import Task, chosen_tasks
from groupmates.settings.config import Core

ASKED = 24  # questions of a task, evenly over its order
BYTES_PER_TOKEN = 4  # where there is no tokenizer yet


@dataclass(frozen=True)
class Reader:
    """A model: `positions` that it can read, and the file of its tokenizer, None where not known."""

    shape: Shape
    positions: int | None
    tokenizer: Path | None


@dataclass(frozen=True)
class CoreTask:
    """A task for a model. Means per question: tokens read, pairs of one and one before it, logits."""

    model: str
    task: str
    shape: Shape
    questions: int
    tokens: float
    pairs: float
    logits: float
    text_bytes: float  # tokenised


def core_tasks(core: Core, readers: dict[str, Reader]) -> list[CoreTask]:
    """Model by model, in the order of the tasks."""
    if not readers:
        return []
    assert core.data is not None
    chosen = chosen_tasks(core.data, core.tasks)
    return [
        _measured(name, reader, task, Path(core.data), core.examples)
        for name, reader in readers.items()
        for task in chosen.values()
    ]


def _measured(name: str, reader: Reader, task: Task, data: Path, examples: int | None) -> CoreTask:
    listed = read_questions(data, task)
    questions = [listed[i][1] for i in order_of(len(listed))[:examples]]
    asked = range(0, len(questions), -(-len(questions) // ASKED))
    text_bytes = 0

    def counted(texts: list[str]) -> list[list[int]]:
        nonlocal text_bytes
        text_bytes += sum(len(text.encode()) for text in texts)
        return encode(texts)

    encode = _encoder(reader.tokenizer)
    rows = tokenised(task, questions, asked, counted, 0)
    means = np.mean([_read(fitted(question, reader.positions)) for question in rows], axis=0)
    tokens, pairs, logits = map(float, means)
    text = text_bytes / len(asked)
    return CoreTask(name, task.name, reader.shape, len(questions), tokens, pairs, logits, text)


def _read(question: Question) -> tuple[float, float, float]:
    """Tokens, pairs of a token and one before it, and logits of a question."""
    shared = question.shared()
    tails = np.array([len(row) for row in question.rows]) - shared
    logits = sum(map(len, question.rows)) - sum(question.first_read())
    pairs = shared**2 / 2 + float((tails * (shared + tails / 2)).sum())
    return float(shared + tails.sum()), pairs, float(logits)


def _encoder(tokenizer: Path | None) -> Callable[[list[str]], list[list[int]]]:
    if tokenizer is None:
        return lambda texts: [_four_bytes_each(text.encode()) for text in texts]
    known = Tokenizer.from_file(str(tokenizer))
    known.no_truncation()
    known.no_padding()
    return lambda texts: [e.ids for e in known.encode_batch_fast(texts, add_special_tokens=False)]


def _four_bytes_each(text: bytes) -> list[int]:
    """Tokens that begin alike where texts do."""
    pieces = (text[i : i + BYTES_PER_TOKEN] for i in range(0, len(text), BYTES_PER_TOKEN))
    return [int.from_bytes(piece, "little") >> 1 for piece in pieces]
