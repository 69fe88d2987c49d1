"""How long the rest of a run will take, by what its own jobs took and what there is still to do.

A job costs its phases and a start. Work of phases is counted as for a plan (`cost/work.py`). The rate
of a phase is that of the same phase of earlier jobs. Where there was none, it is that of phases of this
run with the same kernel, or counted in FLOP: the first training tells what later ones take. Where none
is known, `plan.json` is asked, scaled by what earlier jobs took of their planned time.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from groupmates.cost import sizes, work
from groupmates.cost.compare import read_plan
from groupmates.cost.jobs import WEIGHTS, Jobs, Phase
from groupmates.cost.rates import gap
from groupmates.errors import UserError
from groupmates.settings.config import Config
from groupmates.status.state import Job, Stage, Status, job_seconds, phase_left, rate

Kind = tuple[str, ...]  # of work: (command, unit), (kernel,) or ("FLOP",)
PLAN = "plan.json"
RECENT = 200  # jobs from whose starts the time between two is taken


@dataclass(frozen=True)
class Left:
    """`seconds` until the last job ends; `unknown`: stages that it leaves out but for their start."""

    seconds: float
    unknown: list[str]


@dataclass
class Rates:
    """Work per second, by what `_kinds` says of a phase; seconds of starts, by command."""

    work: dict[Kind, float]
    starts: dict[str, float]

    def seconds(self, command: str, phase: Phase) -> float | None:
        known = next((self.work[k] for k in _kinds(command, phase) if self.work.get(k)), None)
        return phase.size / known if known else None

    def start(self, command: str) -> float:
        mean = sum(self.starts.values()) / len(self.starts) if self.starts else 0.0
        return self.starts.get(command, mean)


@dataclass
class Estimator:
    """Estimates of one run, again and again: the work is counted anew when a stage has ended."""

    run: Path
    _counted: tuple[int, dict[str, list[Jobs]]] | None = field(default=None)

    def left(self, found: Status) -> Left | None:
        """None where nothing is left, or snakemake has left no plan to tell."""
        plan = found.plan
        if plan is None or plan["state"] == "done" or not plan.get("config"):
            return None
        groups = self._groups(found)
        rates = _rates(found, groups)
        scale, planned = self._planned(found)
        done = (job.last for job in found.jobs if job.state == "done" and job.attempts)
        ended = [attempt for attempt in done if attempt["ended"] is not None]
        latest = sorted(ended, key=lambda attempt: attempt["started"])[-RECENT:]
        lag = gap(latest) or 0.0  # until snakemake has started the next one
        unknown: list[str] = []
        seconds: dict[str, float] = {}
        for stage in found.stages:
            command = _command(found, stage)
            each = stage.mean_seconds
            if each is None and stage.name in groups:
                each = _of_group(command, groups[stage.name], rates)
            if each is None and command in planned:
                each = scale * planned[command]
            if each is None and any(job.state != "done" for job in stage.jobs):
                unknown.append(stage.name)
            for job in stage.jobs:
                if job.state != "done":
                    whole = rates.start(command) if each is None else each
                    seconds[job.name] = _left_of(job, whole, lag, found.now)
        return Left(_until_the_last(found, seconds), unknown) if seconds else None

    def _groups(self, found: Status) -> dict[str, Jobs]:
        """Stage -> work of each of its jobs; {} where the inputs cannot be counted yet."""
        assert found.plan is not None
        ended = sum(all(job.state == "done" for job in stage.jobs) for stage in found.stages)
        if self._counted is None or self._counted[0] != ended:
            try:
                config = Config.model_validate(found.plan["config"])
                counted = work.stages(config, sizes.measure(config, self.run, core=False))
            except (UserError, ValueError):  # no pool yet; a configuration of another version
                counted = {}
            self._counted = ended, counted
        by_command: dict[str, list[Stage]] = defaultdict(list)
        for stage in found.stages:
            by_command[_command(found, stage)].append(stage)
        groups = {}
        for command, stages in by_command.items():
            known = self._counted[1].get(command, [])
            # Both rounds of probe and fit have their own group, in the order of the data flow.
            apart = len(known) == len(stages)
            for i, stage in enumerate(stages):
                if known:
                    groups[stage.name] = known[i if apart else 0]
        return groups

    def _planned(self, found: Status) -> tuple[float, dict[str, float]]:
        """Seconds of a job by plan.json, and taken seconds over planned ones of the jobs so far."""
        body = read_plan(self.run / PLAN) or {"stages": {}}
        each = {
            command: stage["seconds"] / stage["jobs"]
            for command, stage in body["stages"].items()
            if stage["seconds"] is not None
        }
        pairs = [
            (taken, each[_command(found, stage)])
            for stage in found.stages
            for job in stage.jobs
            if (taken := job_seconds(job)) is not None and _command(found, stage) in each
        ]
        total = sum(planned for _, planned in pairs)
        return (sum(taken for taken, _ in pairs) / total if total else 1.0), each


def _command(found: Status, stage: Stage) -> str:
    assert found.plan is not None
    return found.plan["jobs"][stage.jobs[0].name]["command"]


def _kinds(command: str, phase: Phase) -> list[Kind]:
    """Kinds of work that have the rate of a phase, the closest first: itself, its kernel, all FLOP."""
    kernel = max(phase.parts, key=lambda name: phase.parts[name])
    counted_in_flop = WEIGHTS.get(kernel) == 1.0 and kernel != "kmeans"
    return [(command, phase.unit), (kernel,), *([("FLOP",)] if counted_in_flop else [])]


def _rates(found: Status, groups: dict[str, Jobs]) -> Rates:
    """What the jobs of this run, those under way included, have achieved."""
    sums: dict[Kind, list[float]] = defaultdict(lambda: [0.0, 0.0])  # of work and seconds
    starts: dict[str, list[float]] = defaultdict(list)
    for stage in found.stages:
        command = _command(found, stage)
        for job in stage.jobs:
            if not job.attempts:
                continue
            told = job.last.get("phases") or []
            if job.state == "done" and job.last["ended"] is not None:
                beside = job.last["ended"] - job.last["started"] - sum(p["seconds"] for p in told)
                starts[command].append(max(beside, 0.0))
            for phase in groups[stage.name].phases if stage.name in groups else []:
                for mine in (p for p in told if p["unit"] == phase.unit and rate(p)):
                    size = phase.size * (mine["done"] - mine["resumed"]) / max(mine["total"], 1)
                    for kind in _kinds(command, phase):
                        sums[kind][0] += size
                        sums[kind][1] += mine["seconds"]
    return Rates(
        {kind: size / seconds for kind, (size, seconds) in sums.items() if seconds},
        {command: sum(values) / len(values) for command, values in starts.items()},
    )


def _of_group(command: str, group: Jobs, rates: Rates) -> float | None:
    parts = [rates.seconds(command, phase) for phase in group.phases]
    if any(part is None for part in parts):
        return None
    return rates.start(command) + sum(part for part in parts if part is not None)


def _left_of(job: Job, whole: float, lag: float, now: float) -> float:
    """Seconds left of a job that takes `whole`; of one that runs, by its own rate where it has one."""
    if job.state != "running":
        return lag + whole
    return max(whole - (now - job.last["started"]), phase_left(job.last) or 0.0)


def _until_the_last(found: Status, seconds: dict[str, float]) -> float:
    """Play the rest of the run: a stage begins when those that it needs have ended.

    Cores (with a cluster: jobs) are taken by whoever is ready, in the order of the data flow.
    """
    assert found.plan is not None
    local = found.plan["executor"] in ("local", "dryrun")
    slots = found.plan["slots"] or len(seconds)
    jobs_of = {
        stage.name: [job for job in stage.jobs if job.name in seconds] for stage in found.stages
    }
    waits_for = {
        stage.name: {name for name in stage.needs if jobs_of.get(name)}
        for stage in found.stages
        if jobs_of[stage.name]
    }
    open_ = {name: len(jobs_of[name]) for name in waits_for}
    order = {name: number for number, name in enumerate(waits_for)}
    ready: list[tuple[bool, int, int, str, Job]] = []  # what runs already is first
    running: list[tuple[float, str, int]] = []
    clock, free = 0.0, slots

    def width(job: Job) -> int:
        assert found.plan is not None
        return min(found.plan["jobs"][job.name]["threads"], slots) if local else 1

    def release(name: str) -> None:
        for number, job in enumerate(jobs_of[name]):
            heapq.heappush(ready, (job.state != "running", order[name], number, name, job))

    for name in [name for name, before in waits_for.items() if not before]:
        release(name)
    while ready or running:
        while ready and width(ready[0][-1]) <= free:
            *_, stage, job = heapq.heappop(ready)
            free -= width(job)
            heapq.heappush(running, (clock + seconds[job.name], stage, width(job)))
        clock, name, freed = heapq.heappop(running)
        free += freed
        open_[name] -= 1
        if not open_[name]:
            for other, before in waits_for.items():
                if name in before:
                    before.discard(name)
                    if not before:
                        release(other)
    return clock
