"""Floating-point operations of jobs that have run: what they did by their records, by arithmetic.

They compare runs on different machines. Reading, tokenising and writing are none, so that a pass over
the pool without a model counts nothing.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from groupmates.cost import sizes, work
from groupmates.cost.jobs import KERNELS, Phase
from groupmates.records.jobs import Attempt
from groupmates.settings.config import Config

PerUnit = dict[tuple[str, str], float]  # (stage, unit of a phase) -> operations
OPERATIONS = {
    kernel: 1 if what.startswith("FLOP") else 2
    for kernel, what in KERNELS.items()
    if what.startswith(("FLOP", "multiply-adds"))
}


def per_unit(config: Config, run: Path) -> PerUnit:
    """Operations of a unit of each phase, by the sizes of what the folder `run` was made of."""
    phases = [
        ((stage, phase.unit), group.count, phase)
        for stage, groups in work.stages(config, sizes.measure(config, run)).items()
        for group in groups
        for phase in group.phases
    ]
    units: PerUnit = defaultdict(float)
    operations: PerUnit = defaultdict(float)
    for key, count, phase in phases:
        units[key] += count * phase.units
        operations[key] += count * _operations(phase)
    return {key: operations[key] / units[key] for key in units if units[key]}


def _operations(phase: Phase) -> float:
    return sum(OPERATIONS.get(kernel, 0) * amount for kernel, amount in phase.parts.items())


def flop(attempts: list[Attempt], each: PerUnit) -> float:
    """Operations of the attempts at a job."""
    return sum(
        (phase["done"] - phase["resumed"]) * each.get((attempt["stage"], phase["unit"]), 0.0)
        for attempt in attempts
        for phase in attempt["phases"]
    )
