"""What a method's pretraining gained over another's, and at what cost, with intervals over seeds.

The trainings of one seed belong together. Losses in nats, lower is better. Shares are of what the
other training took: above 0 is saved, below 0 is spent on top.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from groupmates.maths.randomness import generator
from groupmates.maths.statistics import (
    example_interval,
    paired_interval,
    seeds_needed,
    smallest_difference,
    tokens_to_reach,
)
from groupmates.report.data.pretrained import Trained

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, and its interval; one seed has none."""

    mean: float
    interval: list[float] | None
    single: list[float]

    @classmethod
    def of(cls, single: Sequence[float]) -> Estimate:
        bounds = list(paired_interval(np.array(single), CONFIDENCE))
        return cls(float(np.mean(single)), bounds if len(single) > 1 else None, list(single))

    @classmethod
    def of_ratios(cls, ratios: Sequence[float]) -> Estimate:
        """Of shares saved, 1 - ratio, by their mean logarithm: a half and a double even out."""
        logs = cls.of(np.log(ratios).tolist())
        bounds = None if logs.interval is None else _saved(logs.interval[::-1])
        return cls(_saved([logs.mean])[0], bounds, _saved(logs.single))

    @property
    def deviation(self) -> float | None:
        """Standard deviation of a single value; of one seed it is not known."""
        return float(np.std(self.single, ddof=1)) if len(self.single) > 1 else None


def _saved(logs: Sequence[float]) -> list[float]:
    return [float(1 - np.exp(value)) for value in logs]


@dataclass(frozen=True)
class Gain:
    """A method beside another one, which is `over`, mostly random.

    `loss`: final loss minus that of the other, `by_example` its interval over held-out examples.
    `reaches`: tokens after which each training of the method reaches the other's final loss, `reached`:
    tokens after which the other reaches its own; None where that is not within the training.
    `tokens`, `compute`: share saved until both have the same loss, the worse of the two final ones.
    None where that is not told: a training ended no better than it began, or costs are not recorded.
    `whole`: share saved of the cost of whole trainings. `measure`: the part of a Cost of these shares.
    """

    name: str
    over: str
    seeds: list[int]
    loss: Estimate
    by_example: list[float]
    reaches: list[float | None]
    reached: list[float | None]
    tokens: Estimate | None
    compute: Estimate | None
    whole: Estimate | None
    measure: str | None

    @property
    def smallest(self) -> float | None:
        """Smallest difference in nats that so many seeds would find; None for one seed."""
        spread = self.loss.deviation
        return None if spread is None else smallest_difference(spread, len(self.seeds))

    @property
    def needed(self) -> int | None:
        """Seeds that would find a difference as large as the one seen."""
        spread = self.loss.deviation
        return None if spread is None else seeds_needed(spread, self.loss.mean)


def gain(ours: Trained, other: Trained, measure: str | None, seed: int) -> Gain:
    """`measure`: a part of a Cost, None where costs are unknown. `seed`: of the run."""
    seeds = [s for s in ours.curves if s in other.curves]
    pairs = [(_to(ours, s, other), _to(other, s, ours)) for s in seeds]
    told = [pair for pair in (_both(ours, other, s) for s in seeds) if pair is not None]
    tokens = compute = whole = None
    if len(told) == len(seeds):
        tokens = Estimate.of_ratios([a / b for a, b in told])
    if tokens is not None and measure is not None:
        compute = Estimate.of_ratios([_spent(ours, a, other, b, measure) for a, b in told])
    if measure is not None:
        # Of no training in particular: every one has the mean cost of a token.
        ratio = _spent(ours, ours.tokens, other, other.tokens, measure)
        whole = Estimate(1 - ratio, None, [1 - ratio])
    draws = generator(seed, "frontier", f"{ours.name} - {other.name}")
    bounds = example_interval(ours.sums_E, other.sums_E, ours.labels_E, CONFIDENCE, draws)
    return Gain(
        ours.name,
        other.name,
        seeds,
        Estimate.of([ours.final_nats(s) - other.final_nats(s) for s in seeds]),
        list(bounds),
        [reaches for reaches, _ in pairs],
        [reached for _, reached in pairs],
        tokens,
        compute,
        whole,
        measure,
    )


def _to(ours: Trained, seed: int, other: Trained) -> float | None:
    """Tokens after which a training reaches the final loss of the other's of the same seed."""
    return tokens_to_reach(*ours.curves[seed], other.final_nats(seed))


def _spent(ours: Trained, a: float, other: Trained, b: float, measure: str) -> float:
    """Cost of `a` tokens, over that of `b` tokens of the other."""
    return getattr(ours.spent(a), measure) / getattr(other.spent(b), measure)


def _both(ours: Trained, other: Trained, seed: int) -> tuple[float, float] | None:
    """Tokens of each until both have the worse of their final losses; None where one is there at 0."""
    level = max(ours.final_nats(seed), other.final_nats(seed))
    a, b = (tokens_to_reach(*t.curves[seed], level) for t in (ours, other))
    return (a, b) if a and b else None
