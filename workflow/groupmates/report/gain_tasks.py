"""The tasks of CORE by method, and each method's differences from another: with standard errors.

A question counts by its mean over a method's S seeds. Differences are paired: the same N questions.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from groupmates.maths.in_context import Mean, accuracy, centred, mean_of
from groupmates.pool.core_tasks import name_of_mean
from groupmates.report.data.pretrained import Trained
from groupmates.report.gains import Estimate

Row = dict[str, Any]
Means = dict[str, Mean]
COLUMNS = ("centred", "centred_minus", "bits_per_byte", "bits_per_byte_minus")


def common_tasks(methods: dict[str, Trained]) -> list[str]:
    """Those that the models of all methods were asked."""
    first, *others = methods.values()
    return [task for task in first.tasks if all(task in trained.tasks for trained in others)]


def rows(methods: dict[str, Trained], baseline: str, examples: int | None) -> list[Row]:
    """A row for each task and method, then the means over tasks; none where nothing was asked.

    Centred accuracies have DCLM's older baselines (v1). `examples`: of each task at most.
    """
    tasks, other = common_tasks(methods), methods[baseline]
    if not tasks:
        return []
    found = {m: [_means(ours, other, task) for task in tasks] for m, ours in methods.items()}
    per_task = [
        {
            "task": task,
            "method": method,
            "questions": len(ours.tasks[task].bytes_N),
            **_both("accuracy", accuracy(ours.tasks[task].correct_SN.mean(0))),
            **_columns(found[method][number]),
            **_by_seed(None),
        }
        for number, task in enumerate(tasks)
        for method, ours in methods.items()
    ]
    name = name_of_mean(tasks, examples)
    over_tasks = [
        {
            "task": name,
            "method": method,
            "questions": sum(len(ours.tasks[task].bytes_N) for task in tasks),
            **_both("accuracy", None),
            **_columns({key: mean_of([m[key] for m in found[method]]) for key in found[method][0]}),
            **_by_seed(None if ours is other else over_seeds(ours, other, tasks)),
        }
        for method, ours in methods.items()
    ]
    return per_task + over_tasks


def core_S(trained: Trained, tasks: list[str]) -> np.ndarray:
    """Mean centred accuracy over tasks, of each seed's model."""
    chance = np.array([trained.tasks[task].task.random_baseline / 100 for task in tasks])
    right = np.array([trained.tasks[task].correct_SN.mean(1) for task in tasks])
    found: np.ndarray = ((right.T - chance) / (1 - chance)).mean(1)
    return found


def bits_S(trained: Trained, tasks: list[str]) -> np.ndarray:
    """Mean over tasks of the bits per byte of right answers, of each seed's model."""
    asked = [trained.tasks[task] for task in tasks]
    bits = [a.nats_SN.sum(1) / math.log(2) / a.bytes_N.sum() for a in asked]
    found: np.ndarray = np.mean(bits, axis=0)
    return found


def over_seeds(ours: Trained, other: Trained, tasks: list[str]) -> Estimate:
    """The difference of `core_S`, paired by seed."""
    by_seed = [dict(zip(t.curves, core_S(t, tasks), strict=True)) for t in (ours, other)]
    return Estimate.of(
        [value - by_seed[1][s] for s, value in by_seed[0].items() if s in by_seed[1]]
    )


def _means(ours: Trained, other: Trained, task: str) -> Means:
    """Of a task, by column; those that are differences only where there are two methods."""
    a, b = ours.tasks[task], other.tasks[task]
    right_N, nats_N = a.correct_SN.mean(0), a.nats_SN.mean(0)
    means = {
        "centred": centred(accuracy(right_N), a.task.random_baseline),
        "bits_per_byte": _bits(nats_N, a.bytes_N),
    }
    if ours is not other:
        # What chance gives is no part of a difference, but of its scale.
        scale = 1 / (1 - a.task.random_baseline / 100)
        minus = accuracy(right_N - b.correct_SN.mean(0))
        means["centred_minus"] = Mean(scale * minus.value, scale * minus.error)
        means["bits_per_byte_minus"] = _bits(nats_N - b.nats_SN.mean(0), a.bytes_N)
    return means


def _bits(nats_N: np.ndarray, bytes_N: np.ndarray) -> Mean:
    """Bits of right answers over their bytes, with the standard error of a ratio over questions."""
    bits_N, count, total = nats_N / math.log(2), len(nats_N), bytes_N.sum()
    ratio = bits_N.sum() / total
    rest_N = bits_N - ratio * bytes_N
    error = rest_N.std(ddof=1) * math.sqrt(count) / total if count > 1 else math.nan
    return Mean(float(ratio), float(error))


def _both(name: str, mean: Mean | None) -> Row:
    return {name: mean and mean.value, f"{name}_error": mean and mean.error}


def _columns(means: Means) -> Row:
    found: Row = {}
    for name in COLUMNS:
        found |= _both(name, means.get(name))
    return found


def _by_seed(found: Estimate | None) -> Row:
    low, high = (found and found.interval) or (None, None)
    return {"centred_minus_by_seed_low": low, "centred_minus_by_seed_high": high}
