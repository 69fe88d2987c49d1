"""CORE: the in-context questions of a task, put to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from groupmates.artefacts.store import Provenance, write_table
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.in_context import Question, Verdict, fitted, order_of, verdict
from groupmates.models import language_model as lm
from groupmates.models.in_context import read
from groupmates.models.tokenizer import load_tokenizer, read_special_tokens, text_tokens
from groupmates.pool.core_questions import read_questions, tokenised
from groupmates.pool.core_tasks import chosen_tasks
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import CoreSettings

FOREIGN = "put the model's own tokenizer beside its weights: this one is of another model"


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
    encode, label = partial(text_tokens, tokenizer), f"core, {task}"
    rows = tokenised(asked, questions, range(len(questions)), encode, start_of(tokenizer))
    whole = list(Progress(label, len(questions), "prompts").over(rows))

    def where(number: int) -> str:
        return f"{checkpoint}, at {asked.file}, line {lines[number]}"

    every = [row for question in whole for row in question.rows]
    owner = np.repeat(np.arange(len(whole)), [len(question.rows) for question in whole])
    lm.check_ids(model, every, lambda i: where(owner[i]), tokenizer, FOREIGN)
    fitting = [fitted(question, lm.positions_of(model)) for question in whole]
    provenance = Provenance.of(
        "core", settings, checkpoint=checkpoint, questions=data / str(asked.file)
    ).also(task=asked.model_dump(mode="json"))
    with Kept(output, "core_predictions", provenance) as kept:
        found = _verdicts(model, fitting, settings.batch_tokens, kept, label, where)
        write_table(output, "core_predictions", provenance, _columns(lines, fitting, found))
        kept.clear()


def start_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that every prompt begins with."""
    start = tokenizer.bos_token_id
    return tokenizer.eos_token_id if start is None else start


def _verdicts(
    model: Any,
    rows: list[Question],
    batch_tokens: int,
    kept: Kept,
    label: str,
    where: Callable[[int], str],
) -> list[Verdict]:
    """What the model makes of each question, those that an attempt before has read included.

    What is kept are numbers in a row: of each question its own, those of its verdict, and a loss for
    each of its options.
    """
    if cut := sum(question.cut for question in rows):
        note(label, f"{cut:,} of {len(rows):,} questions are longer than the model's context: cut")
    found, told = {}, kept.values
    values = iter(told)
    for number in values:
        predicted, answer_nats = next(values), next(values)
        option_nats = list(islice(values, len(rows[int(number)].rows)))
        found[int(number)] = Verdict(int(predicted), option_nats, answer_nats)
    progress = Progress(label, len(rows), "questions", len(found))
    for batch in read(model, rows, batch_tokens, len(found)):
        for number, losses, likeliest in batch:
            if not np.isfinite(np.concatenate(losses)).all():
                raise UserError(
                    expected="finite losses",
                    found="nan or inf",
                    where=where(number),
                    todo="correct the checkpoint's weights, or take it out of core.models",
                )
            of_question = verdict(rows[number], losses, likeliest)
            found[number] = of_question
            told += [number, of_question.predicted, of_question.answer_nats]
            told += of_question.option_nats
        progress.advance(len(batch))
        kept.measured(told)
    progress.finish()
    return [found[number] for number in range(len(rows))]


def _columns(lines: list[int], rows: list[Question], found: list[Verdict]) -> dict[str, Any]:
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
