"""A plan against the run: what each stage's jobs took, by their records, beside what was planned."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groupmates.records import jobs


@dataclass(frozen=True)
class Compared:
    """Sums over a stage's jobs, all their attempts; memory is the peak of one job."""

    stage: str
    jobs: int
    planned_seconds: float | None
    taken_seconds: float
    planned_bytes: float
    peak_bytes: float
    planned_gpu_bytes: float | None
    peak_gpu_bytes: float | None

    @property
    def factor(self) -> float | None:
        """Taken over planned."""
        return self.taken_seconds / self.planned_seconds if self.planned_seconds else None


def read_plan(path: Path) -> dict[str, Any] | None:
    """The plan of a run; None where none was made, or half of one is left."""
    try:
        planned: dict[str, Any] = json.loads(path.read_text())
        return planned if planned["stages"] else None
    except (OSError, ValueError, KeyError):
        return None


def compare(planned: dict[str, Any], logs: Path) -> list[Compared]:
    """Stages of the plan of which jobs have ended, in the order of the data flow."""
    by_stage: dict[str, list[list[dict[str, Any]]]] = {}
    for attempts in jobs.read_records(logs):
        ended = [a for a in attempts if a["ended"] is not None]
        if ended:
            by_stage.setdefault(ended[-1]["stage"], []).append(ended)
    found = []
    for stage, known in planned["stages"].items():
        records = by_stage.get(stage, [])
        if not records:
            continue
        attempts = [a for job in records for a in job]
        on_card = [a["gpu_peak_bytes"] for a in attempts if a["gpu_peak_bytes"]]
        found.append(
            Compared(
                stage=stage,
                jobs=len(records),
                # Of the jobs that have run: a plan of all of them, where some are still to come.
                planned_seconds=None
                if known["seconds"] is None
                else known["seconds"] * len(records) / known["jobs"],
                taken_seconds=sum(map(jobs.duration, attempts)),
                planned_bytes=known["host_bytes"],
                peak_bytes=max(a["peak_rss_bytes"] for a in attempts),
                planned_gpu_bytes=known["gpu_bytes"],
                peak_gpu_bytes=max(on_card, default=None),
            )
        )
    return found
