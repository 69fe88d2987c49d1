"""A finished run as it was at an earlier moment, from its job records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groupmates.records import campaign, jobs
from groupmates.status.queue import Queue
from groupmates.status.state import Job, Stage, Status

Attempts = dict[str, dict[str, Any]]


def records(run: Path) -> Attempts:
    """Job -> its last attempt."""
    return {name: attempts[-1] for name, attempts in jobs.named_records(run / "logs").items()}


def span(attempts: Attempts) -> tuple[float, float]:
    """Begin and end of the jobs of a finished run."""
    return min(a["started"] for a in attempts.values()), max(a["ended"] for a in attempts.values())


def at(run: Path, attempts: Attempts, now: float) -> Status:
    """What `make status` would have found at `now`, by what the records tell of the way there."""
    plan = campaign.read(run / "logs")
    assert plan is not None, f"{run} has no {campaign.NAME}"
    of_stage: dict[str, list[Job]] = {}
    for name, entry in plan["jobs"].items():
        attempt = attempts[name]
        if attempt["ended"] <= now:
            job = Job(name, "done", [attempt])
        elif attempt["started"] <= now:
            job = Job(name, "running", [_unfinished(attempt, now)])
        else:
            job = Job(name, "waiting", [])
        of_stage.setdefault(entry["stage"], []).append(job)
    stages = [Stage(name, found, plan["stages"][name]) for name, found in of_stage.items()]
    running = plan | {"state": "running", "ended": None}
    return Status(run, "running", json.loads(json.dumps(running)), stages, Queue(), now)


def _unfinished(attempt: dict[str, Any], now: float) -> dict[str, Any]:
    """An attempt half way: what lies beside its phases comes first, each phase at its own rate."""
    taken = attempt["ended"] - attempt["started"]
    clock = attempt["started"] + taken - sum(p["seconds"] for p in attempt["phases"])
    phases = []
    for phase in attempt["phases"]:
        if clock >= now:
            break
        share = min((now - clock) / phase["seconds"], 1.0) if phase["seconds"] else 1.0
        done = phase["resumed"] + int(share * (phase["done"] - phase["resumed"]))
        phases.append(phase | {"done": done, "seconds": share * phase["seconds"]})
        clock += phase["seconds"]
    return attempt | {"state": "running", "ended": None, "heard": now, "phases": phases}
