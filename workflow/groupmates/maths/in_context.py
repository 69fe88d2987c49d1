"""In-context questions as rows of tokens: which are scored, what they say, and CORE of many tasks.

Legend: N questions of a task, K options of a question, L tokens of a row, T tasks. Losses are in nats.
The choice of examples, the scored tokens and the verdict are those of karpathy/nanochat's
`core_eval.py`, so that accuracies can be compared.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Kind = Literal["multiple_choice", "schema", "language_modeling"]
ORDER_SEED, SHOTS_SEED = 1337, 1234  # of the public harness, whatever the run's seed
NONE_OF_THEM = -1
FEW_TOKENS = 256  # a forward pass over fewer takes hardly less time


def order_of(questions: int) -> list[int]:
    """The order in which the questions of a task's file are asked: the first ones stand for all."""
    order = list(range(questions))
    random.Random(ORDER_SEED).shuffle(order)
    return order


def shots_of(question: int, questions: int, shots: int) -> list[int]:
    """The examples in front of a question: at most `shots` others of the `questions` in their order."""
    drawn = random.Random(SHOTS_SEED + question).sample(
        range(questions - 1), min(shots, questions - 1)
    )
    return [other + (other >= question) for other in drawn]


@dataclass(frozen=True)
class Question:
    """A question's rows: one for each option, int32 [L].

    `scored`: position in each row of the first token that its option is judged by. `answer`: that of
    the first token of the right answer, in the row `gold`. `answer_bytes`: its text's bytes in UTF-8.
    No position is 0: every such token has one before it. `cut`: whether a row has lost its start.
    """

    rows: list[np.ndarray]
    scored: list[int]
    gold: int
    answer: int
    answer_bytes: int
    cut: bool = False

    def first_read(self) -> list[int]:
        """Position in each row of the first token whose loss is looked at."""
        first = list(self.scored)
        first[self.gold] = min(first[self.gold], self.answer)
        return first

    def shared(self) -> int:
        """Tokens that all rows begin with, and of which none is looked at; 0 for a single row.

        One less, so that a row by itself still has the token that predicts the first one looked at.
        """
        if len(self.rows) == 1:
            return 0
        return max(0, min(common_start(self.rows), *self.first_read()) - 1)


def common_start(rows: Sequence[np.ndarray]) -> int:
    """Number of tokens that all rows begin with."""
    shortest = min(map(len, rows))
    same_L = np.all([row[:shortest] == rows[0][:shortest] for row in rows], axis=0)
    return shortest if same_L.all() else int(same_L.argmin())


def question_of(
    kind: Kind, rows: list[np.ndarray], before: np.ndarray, gold: int, answer_bytes: int
) -> Question:
    """What is scored in the rows; `before`: tokens of the row `gold` without the right answer.

    Options that follow one context are judged by what comes after their common beginning. Contexts
    that are options are judged by the common end. A single row is judged by the answer.
    """
    answer = max(1, common_start([before, rows[gold]]))
    if kind == "multiple_choice":
        scored = [max(1, common_start(rows))] * len(rows)
    elif kind == "schema":
        end = common_start([row[::-1] for row in rows])
        scored = [max(1, len(row) - end) for row in rows]
    else:
        scored = [answer]
    return Question(rows, scored, gold, answer, answer_bytes)


def fitted(question: Question, positions: int | None) -> Question:
    """The question within so many positions of a model: longer rows lose their start."""
    longest = max(map(len, question.rows))
    if positions is None or longest <= positions:
        return question
    lost = [max(0, len(row) - positions) for row in question.rows]
    return replace(
        question,
        rows=[row[n:] for row, n in zip(question.rows, lost, strict=True)],
        scored=[max(1, s - n) for s, n in zip(question.scored, lost, strict=True)],
        answer=max(1, question.answer - lost[question.gold]),
        cut=True,
    )


@dataclass(frozen=True)
class Verdict:
    """What a model makes of a question.

    `option_nats`: mean loss per scored token, of each option. `predicted`: the option of least loss,
    of equal ones the first. A single row is predicted (0) where each token of the answer is the
    likeliest one, or else NONE_OF_THEM is. `answer_nats`: summed loss of the right answer.
    """

    predicted: int
    option_nats: list[float]
    answer_nats: float


def verdict(question: Question, losses: list[np.ndarray], likeliest: np.ndarray) -> Verdict:
    """`losses`: float [L - first read] of each row. `likeliest`: bool of the row `gold`, as long.

    An option that is the beginning of all others has no scored token. It is never chosen.
    """
    first = question.first_read()
    nats = [
        float(loss[s - f :].mean(dtype=np.float64)) if len(loss) > s - f else math.inf
        for loss, s, f in zip(losses, question.scored, first, strict=True)
    ]
    offset = question.answer - first[question.gold]
    if len(nats) == 1:
        predicted = 0 if likeliest[offset:].all() else NONE_OF_THEM
    else:
        predicted = nats.index(min(nats))
    answer = losses[question.gold][offset:].sum(dtype=np.float64)
    return Verdict(predicted, nats, float(answer))


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error; the error is NaN where a single value has none."""

    value: float
    error: float


def accuracy(correct_N: np.ndarray) -> Mean:
    """Share of right predictions, with the standard error over questions."""
    count = len(correct_N)
    error = correct_N.std(ddof=1) / math.sqrt(count) if count > 1 else math.nan
    return Mean(float(correct_N.mean()), float(error))


def centred(found: Mean, baseline_percent: float) -> Mean:
    """Accuracy above chance, over the most that there is: (a - b) / (1 - b)."""
    baseline = baseline_percent / 100
    return Mean((found.value - baseline) / (1 - baseline), found.error / (1 - baseline))


def mean_of(tasks: Sequence[Mean]) -> Mean:
    """The mean over T tasks; its error takes their questions for independent."""
    total = math.sqrt(sum(task.error**2 for task in tasks))
    return Mean(sum(task.value for task in tasks) / len(tasks), total / len(tasks))


def bits_per_byte(answer_nats_N: np.ndarray, answer_bytes_N: np.ndarray) -> float:
    """Bits of all right answers over their bytes; lower is better."""
    return float(answer_nats_N.sum() / math.log(2) / answer_bytes_N.sum())


def batches(
    shared_N: np.ndarray, rows_N: np.ndarray, tails_N: np.ndarray, max_tokens: int
) -> list[np.ndarray]:
    """Indices of questions that are read together: about `max_tokens` tokens, one question at least.

    `shared_N`: tokens that the rows of a question share. `rows_N`: its rows. `tails_N`: tokens of all
    its rows behind the shared ones. What a batch shares is as long as its shortest: the others repeat
    the rest in each row. So those within 1/32 of each other come together, or FEW_TOKENS. Among
    these, rows of nearly equal length do.
    """
    found = []
    order = np.lexsort((-tails_N / rows_N, -shared_N))
    tokens_N = shared_N + tails_N
    while len(order):
        near = int((shared_N[order] >= shared_N[order[0]] * (1 - 1 / 32)).sum())
        few = int((tokens_N[order].cumsum() < FEW_TOKENS).sum())
        band, order = np.split(order, [max(near, few)])
        band = band[np.argsort(-(tails_N / rows_N)[band], kind="stable")]
        rest = (rows_N[band] - 1) * (shared_N[band] - shared_N[band].min())
        filled = (tokens_N[band] + rest).cumsum() // max_tokens
        found += np.split(band, np.flatnonzero(np.diff(filled)) + 1)
    return found


def alike(length_R: np.ndarray) -> list[np.ndarray]:
    """Indices of rows of nearly equal length, from 3/4 of the longest, or of FEW_TOKENS together."""
    found = []
    order = np.argsort(-length_R, kind="stable")
    while len(order):
        longest = length_R[order[0]]
        near = int((length_R[order] >= 0.75 * longest).sum())
        here, order = np.split(order, [max(near, int(FEW_TOKENS // longest))])
        found.append(here)
    return found
