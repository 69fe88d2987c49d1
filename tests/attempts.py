"""Attempts of jobs, as their records tell of them."""

from __future__ import annotations

from typing import Any

BEGUN, NOW = 1_000_000.0, 1_000_600.0  # of a campaign


def attempt(
    state: str = "done", started: float = BEGUN + 100, seconds: float = 100.0, **more: Any
) -> dict[str, Any]:
    """`seconds` to the end, of one that runs to when it was last heard of."""
    ended = started + seconds
    return {
        "stage": "score",
        "job": "score",
        "state": state,
        "started": started,
        "heard": ended,
        "ended": None if state == "running" else ended,
        "host": "node7",
        "pid": 4,
        "slurm_job_id": None,
        "error": None,
        "cpu_seconds": 1.0,
        "cores": 2,
        "device": "a processor",
        "peak_rss_bytes": 2e9,
        "gpu_peak_bytes": None,
        "phases": [],
    } | more


def work(
    done: int, total: int, seconds: float, resumed: int = 0, unit: str = "documents"
) -> dict[str, Any]:
    """A phase of an attempt."""
    names = {"label": "score", "unit": unit, "done": done, "total": total}
    return names | {"resumed": resumed, "seconds": seconds}
