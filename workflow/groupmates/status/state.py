"""What every job of a run is at, from the campaign's plan, the jobs' records and SLURM's queue.

Only reads, so that it may be asked at any moment, from any node that sees the run's folder, whether
snakemake's main process lives or not.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groupmates.errors import UserError
from groupmates.records import campaign, jobs
from groupmates.status.queue import STARTING, Queue

Attempt = jobs.Attempt
STATES = ("done", "running", "lost", "failed", "queued", "stopped", "waiting")
OVER = {"done": "done", "failed": "failed", "stopped": "stopped", "killed": "stopped"}
TAIL_BYTES = 2**16


@dataclass(frozen=True)
class Job:
    """`state` is one of STATES. A lost job should be running and is not heard of any more. A stopped
    one goes on where it was when it is started again. A queued one is in SLURM's queue for `reason`.
    """

    name: str
    state: str
    attempts: list[Attempt]
    reason: str | None = None

    @property
    def last(self) -> Attempt:
        return self.attempts[-1]


@dataclass(frozen=True)
class Stage:
    name: str
    jobs: list[Job]
    needs: list[str]

    @property
    def counts(self) -> Counter[str]:
        return Counter(job.state for job in self.jobs)

    @property
    def to_begin(self) -> int:
        """Jobs that nobody has given to a queue, those included that go on where they stopped."""
        return self.counts["waiting"] + self.counts["stopped"]

    @property
    def mean_seconds(self) -> float | None:
        """What its jobs that are done took; None where that is not known."""
        took = [s for job in self.jobs if (s := job_seconds(job)) is not None]
        return sum(took) / len(took) if took else None


@dataclass(frozen=True)
class Status:
    """`main` is what the main process is at: running, gone, elsewhere (on another host), done,
    failed; unknown where snakemake has left no plan. `now` is when this was read."""

    run: Path
    main: str
    plan: dict[str, Any] | None
    stages: list[Stage]
    queue: Queue
    now: float

    @property
    def jobs(self) -> list[Job]:
        return [job for stage in self.stages for job in stage.jobs]

    @property
    def over(self) -> bool:
        """Whether nothing more will happen by itself."""
        moving = any(job.state in ("running", "queued") for job in self.jobs)
        return self.main in ("done", "failed", "gone", "unknown") and not moving


@dataclass
class Reader:
    """Reads a run again and again: a record that has not changed is not read twice."""

    run: Path
    _known: dict[Path, tuple[int, list[Attempt]]] = field(default_factory=dict)

    def status(self, now: float) -> Status:
        folder = self.run / "logs"
        plan = campaign.read(folder)
        records = self._records(folder)
        if plan is None and not records:
            raise UserError(
                expected="a run that snakemake has begun",
                found=f"neither {campaign.NAME} nor a job's record",
                where=str(folder),
                todo=_other_runs(self.run),
            )
        main = main_process(plan)
        queue = Queue.ask(plan)
        listed = plan["jobs"] if plan else dict.fromkeys(records)
        found: dict[str, list[Job]] = {}
        for name, entry in listed.items():
            stamp, attempts = records.get(name, (0.0, []))
            heard = plan is None or stamp >= plan["begun"]
            state = job_state(attempts, heard, entry, now, stamp)
            reason = queue.reasons.get(entry["comment"]) if entry else None
            # One that is lost may wait for another node already.
            elsewhere = state == "lost" and reason != STARTING
            if reason and (state in ("waiting", "stopped", "failed") or elsewhere):
                state = "queued"
            reason = reason if state == "queued" else None
            stage = entry["stage"] if entry else jobs.stage_of(attempts[-1])
            found.setdefault(stage, []).append(Job(name, state, attempts, reason))
        needs = plan["stages"] if plan else {}
        stages = [Stage(name, of_stage, needs.get(name, [])) for name, of_stage in found.items()]
        return Status(self.run, main, plan, stages, queue, now)

    def _records(self, folder: Path) -> dict[str, tuple[float, list[Attempt]]]:
        """When each record was written, by the file system's clock, and the attempts in it."""
        found = {}
        for path in sorted(folder.rglob("*.json")):
            try:
                written = path.stat().st_mtime_ns
            except OSError:
                continue  # just replaced, or another run's clean-up
            if self._known.get(path, (None,))[0] != written:
                self._known[path] = (written, jobs.read_record(path))
            attempts = self._known[path][1]
            if attempts:
                name = path.relative_to(folder).with_suffix("").as_posix()
                found[name] = (written / 1e9, attempts)
        return found


def main_process(plan: dict[str, Any] | None) -> str:
    if plan is None or plan["state"] != "running":
        return plan["state"] if plan else "unknown"
    if plan["host"] != socket.gethostname():
        return "elsewhere"
    return "running" if _lives(plan["pid"]) else "gone"


def job_state(
    attempts: list[Attempt],
    heard: bool,
    entry: dict[str, Any] | None,
    now: float,
    stamp: float,
) -> str:
    """What a job is at; `heard` of in this campaign or not, `stamp` when its record was written."""
    if entry and (not entry["needed"] or entry.get("finished")):
        return "done"
    if not attempts or not heard:
        return "waiting"
    last = attempts[-1]
    if last["state"] != "running":
        return OVER[last["state"]]
    here = last["host"] == socket.gethostname()
    silent = jobs.is_silent(last | {"heard": max(last["heard"], stamp)}, now)
    return "lost" if silent or (here and not _lives(last["pid"])) else "running"


def next_stages(stages: list[Stage]) -> list[Stage]:
    """Those with jobs that wait for nothing but what is done, runs or is queued already."""
    held = {s.name for s in stages if s.to_begin or s.counts["failed"] or s.counts["lost"]}
    return [s for s in stages if s.to_begin and not held & set(s.needs)]


def seconds_left(stage: Stage, now: float) -> float | None:
    """Of a stage whose jobs go on as those before them, as many at once as now; None: no telling."""
    running = [job for job in stage.jobs if job.state == "running"]
    if not running:
        return None
    spent_own = [(now - job.last["started"], phase_left(job.last)) for job in running]
    mean = stage.mean_seconds
    if mean is None:
        whole = [spent + own for spent, own in spent_own if own is not None]
        if not whole:
            return None
        mean = sum(whole) / len(whole)
    left = [max(mean - spent, 0.0) if own is None else own for spent, own in spent_own]
    rest = stage.counts["queued"] + stage.to_begin
    return max((sum(left) + rest * mean) / len(running), *left)


def job_seconds(job: Job) -> float | None:
    """What a job that is done took; None where that is not known."""
    return jobs.seconds(job.attempts) if job.state == "done" else None


def phase(attempt: Attempt) -> dict[str, Any] | None:
    """The piece of work that an attempt is at, or ended with."""
    return (attempt.get("phases") or [None])[-1]


def rate(work: dict[str, Any]) -> float | None:
    done = work["done"] - work["resumed"]
    return done / work["seconds"] if done and work["seconds"] else None


def phase_left(attempt: Attempt) -> float | None:
    """Seconds left of the phase that an attempt is at."""
    work = phase(attempt)
    pace = rate(work) if work else None
    if work is None or pace is None or work["total"] < work["done"]:
        return None
    return float(work["total"] - work["done"]) / pace


def log_of(run: Path, job: Job) -> Path:
    return run / "logs" / f"{job.name}.log"


def tail(log: Path, lines: int) -> list[str]:
    """The last lines of the last attempt's part of a log."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            text = file.read().decode(errors="replace").splitlines()
    except OSError:
        return []
    starts = [i for i, line in enumerate(text) if line.startswith("--- ")]
    text = text[starts[-1] + 1 :] if starts else text
    return [line for line in text if line.strip()][-lines:]


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _other_runs(run: Path) -> str:
    others = sorted(folder.parent.name for folder in run.parent.glob("*/logs"))
    if others:
        return f"make status RUN=…; runs in {run.parent}: {', '.join(others)}"
    return "start snakemake first; give results/RUN of the folder that it runs in"
