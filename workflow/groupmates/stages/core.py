"""CORE: the in-context questions of a task, put to a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from groupmates.artefacts.store import Provenance, write_table
from groupmates.errors import UserError
from groupmates.maths.in_context import (
    Question,
    Verdict,
    fitted,
    order_of,
    question_of,
    shots_of,
    verdict,
)
from groupmates.models import language_model as lm
from groupmates.models.in_context import read
from groupmates.models.tokenizer import load_tokenizer, read_special_tokens, text_tokens
from groupmates.pool.core_questions import gold_of, prompts, read_questions
from groupmates.pool.core_tasks import Task, chosen_tasks
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import CoreSettings

ASKED_TOGETHER = 200  # questions whose prompts are in memory as text


def run(settings: CoreSettings, *, checkpoint: Path, data: Path, task: str, output: Path) -> None:
    """Put the questions of `task` to the checkpoint; its prediction and losses for each.

    Raises `UserError` for a task file that is not as it must be (with the line), a checkpoint that
    cannot be loaded, a token without embedding, and losses that are not finite.
    """
    asked = chosen_tasks(str(data), [task])[task]
    listed = read_questions(data, asked)
    order = order_of(len(listed))[: settings.examples]
    lines, questions = [listed[i][0] for i in order], [listed[i][1] for i in order]
    tokenizer = load_tokenizer(checkpoint)
    read_special_tokens(tokenizer, in_text=False)
    model = lm.load_lm(checkpoint, key="core.models").eval().requires_grad_(False)
    label = f"core, {task}"
    whole = list(tokenised(asked, questions, tokenizer))
    _check_ids(model, whole, tokenizer, checkpoint, str(asked.file), lines)
    rows = [fitted(question, lm.positions_of(model)) for question in whole]
    if cut := sum(question.cut for question in rows):
        note(label, f"{cut:,} of {len(rows):,} questions are longer than the model's context: cut")
    progress = Progress(label, len(rows), "questions")
    found: list[Verdict | None] = [None] * len(rows)
    for number, losses, likeliest in read(model, rows, settings.batch_tokens):
        found[number] = verdict(rows[number], losses, likeliest)
        if not np.isfinite(np.concatenate(losses)).all():
            raise UserError(
                expected="finite losses",
                found="nan or inf",
                where=f"{checkpoint}, at {asked.file}, line {lines[number]}",
                todo="correct the checkpoint's weights, or take it out of core.models",
            )
        progress.advance()
    progress.finish()
    provenance = Provenance.of(
        "core", settings, checkpoint=checkpoint, questions=data / str(asked.file)
    ).also(task=asked.model_dump(mode="json"))
    write_table(output, "core_predictions", provenance, _columns(lines, rows, found))


def tokenised(
    task: Task, questions: list[dict[str, Any]], tokenizer: PreTrainedTokenizerBase
) -> Iterator[Question]:
    """The questions as rows of tokens, each behind the token that begins a text."""
    start = tokenizer.bos_token_id
    start = tokenizer.eos_token_id if start is None else start
    for first in range(0, len(questions), ASKED_TOGETHER):
        block = range(first, min(first + ASKED_TOGETHER, len(questions)))
        drawn = {i: shots_of(i, len(questions), task.num_fewshot) for i in block}
        asked = [prompts(task, [questions[j] for j in drawn[i]], questions[i]) for i in block]
        texts = [text for before, whole in asked for text in (before, *whole)]
        tokens = (np.array([start, *ids], np.int32) for ids in text_tokens(tokenizer, texts))
        for i, (before, whole) in zip(block, asked, strict=True):
            head, *rows = (next(tokens) for _ in range(1 + len(whole)))
            gold = gold_of(questions[i])
            answer_bytes = len(whole[gold].encode()) - len(before.encode())
            yield question_of(task.type, rows, head, gold, answer_bytes)


def _check_ids(
    model: Any,
    questions: list[Question],
    tokenizer: PreTrainedTokenizerBase,
    checkpoint: Path,
    file: str,
    lines: list[int],
) -> None:
    """Every token must have an embedding: vocabulary and tokenizer may be of different models."""
    rows = lm.embedding_rows(model)
    for line, question in zip(lines, questions, strict=True):
        highest = max(int(row.max()) for row in question.rows)
        if highest >= rows:
            raise UserError(
                expected=f"token ids below {rows:,}, the rows of the model's embedding",
                found=f"{tokenizer.convert_ids_to_tokens(highest)!r} with the id {highest:,}, in "
                f"{file}, line {line}",
                where=str(checkpoint),
                todo="put the model's own tokenizer beside its weights: this one is of another model",
            )


def _columns(lines: list[int], rows: list[Question], found: list[Any]) -> dict[str, Any]:
    return {
        "line": lines,
        "gold": [question.gold for question in rows],
        "predicted": [verdict.predicted for verdict in found],
        "correct": [v.predicted == q.gold for v, q in zip(found, rows, strict=True)],
        "option_nats": [verdict.option_nats for verdict in found],
        "answer_nats": [verdict.answer_nats for verdict in found],
        "answer_bytes": [question.answer_bytes for question in rows],
        "cut": [question.cut for question in rows],
    }
