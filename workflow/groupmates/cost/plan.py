"""What the run will cost, stage by stage, before it is started: from its configuration and rates.

Nothing depends on a plan and a plan depends on no artefact: it is made anew each time it is asked
for. The report compares it with what the run then took.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from groupmates.artefacts.store import replacing
from groupmates.cost import rates, sizes, work
from groupmates.cost.jobs import IMPORTS_BYTES, Jobs, Phase
from groupmates.cost.table import text
from groupmates.maths.flops import makespan, training_flops
from groupmates.settings.config import Config
from groupmates.settings.per_stage import PlanSettings
from groupmates.settings.stages import STAGES

# What a stage costs in time; None without a rate.
SPENT = ("seconds", "longest_seconds", "wall_seconds", "gpu_hours", "cpu_hours", "cpu_seconds")


def run(settings: PlanSettings, *, output: Path, stage_threads: str = "{}") -> None:
    """Print and write the plan; `output` is results/{run}/plan.json, plan.txt stands beside it.

    `stage_threads` is JSON: the threads of each stage's jobs, as its rule asks for them.
    """
    root = output.parent
    planned = plan(settings.config, root, json.loads(stage_threads))
    for path, content in (
        (output, json.dumps(planned, indent=2, sort_keys=True) + "\n"),
        (output.with_suffix(".txt"), text(planned)),
    ):
        with replacing(path) as temporary:
            temporary.write_text(content)
    print(text(planned), end="", flush=True)


def plan(config: Config, root: Path, threads: dict[str, int]) -> dict[str, Any]:
    """The plan of a run in folder `root`, as plan.json holds it."""
    known = sizes.measure(config, root)
    sources = rates.sources(config.plan.rates, root)
    gpu_machine = bool(sources) and sources[0].gpu
    stages = {
        name: stage(name, jobs, config, sources, gpu_machine, threads.get(name, 1))
        for name, jobs in work.stages(config, known).items()
    }
    complete = [s for s in stages.values() if s["seconds"] is not None]
    total = {
        key: sum(s[key] or 0.0 for s in complete)
        for key in ("seconds", "wall_seconds", "gpu_hours", "cpu_hours")
    }
    total |= {
        "jobs": sum(s["jobs"] for s in stages.values()),
        "disk_bytes": sum(s["disk_bytes"] for s in stages.values()),
    }
    return {
        "run": config.run,
        "gpus": config.plan.gpus if gpu_machine else 0,
        "cores": config.plan.cores,
        "sizes": asdict(known),
        "sources": [s.describe() for s in sources],
        "stages": stages,
        "missing": [name for name, s in stages.items() if s["seconds"] is None],
        "total": total,
        "pretraining": pretraining(config, known, stages, sources, gpu_machine),
    }


def stage(
    name: str,
    jobs: list[Jobs],
    config: Config,
    sources: list[rates.Source],
    gpu_machine: bool,
    threads: int,
) -> dict[str, Any]:
    """Cost of one stage; seconds are None where a rate is not known."""
    measured = next((s for s in sources if name in s.on_gpu), None)
    on_gpu = measured.on_gpu[name] if measured else gpu_machine and STAGES[name].gpu
    used: dict[str, dict[str, Any]] = {}
    each = [(group.count, job_seconds(name, group, sources, threads, used)) for group in jobs]
    host, on_card = memory(name, jobs, measured, on_gpu)
    found: dict[str, Any] = {
        "jobs": sum(group.count for group in jobs),
        "gpu": on_gpu,
        "threads": threads,
        "host_bytes": host,
        "gpu_bytes": on_card if on_gpu else None,
        "host_data_bytes": max(group.host_bytes for group in jobs),
        "gpu_data_bytes": max(group.gpu_bytes + group.gpu_alone_bytes for group in jobs),
        "memory": "measured beside the data" if measured else "arithmetic",
        "disk_bytes": sum(group.count * group.disk_bytes for group in jobs),
        "rates": used,
        "unknown_kernels": unknown_kernels(jobs, sources),
        "work": total_work(jobs),
        **dict.fromkeys(SPENT),
    }
    if any(seconds is None for _, seconds in each):
        return found
    known = [(count, seconds) for count, seconds in each if seconds is not None]
    slots = max(1, config.plan.gpus if on_gpu else config.plan.cores // threads)
    lag = next((s.scheduling for s in sources if s.scheduling is not None), 0.0)
    seconds = sum(count * each for count, each in known)
    busy = next((s.busy[name] for s in sources if name in s.busy), None)
    return found | {
        "seconds": seconds,
        "longest_seconds": max(each for _, each in known),
        # Groups of a stage wait for each other: bootstrapped rollouts for those of the random round.
        "wall_seconds": sum(makespan([(c, s + lag)], slots) for c, s in known),
        "gpu_hours": seconds / 3600 if on_gpu else 0.0,
        "cpu_hours": seconds * threads / 3600,
        "cpu_seconds": None if busy is None else busy * seconds,
    }


def unknown_kernels(jobs: list[Jobs], sources: list[rates.Source]) -> list[str]:
    """Kernels of a stage that no file of rates knows, where there is one."""
    known = [source.kernels.keys() for source in sources if source.kernels]
    asked = {kernel for group in jobs for phase in group.phases for kernel in phase.parts}
    return sorted(asked.difference(*known)) if known else []


def job_seconds(
    name: str,
    group: Jobs,
    sources: list[rates.Source],
    threads: int,
    used: dict[str, dict[str, Any]],
) -> float | None:
    """Seconds of one job of a group; notes in `used` which source each rate came from."""
    start = next(((s, x) for s in sources if (x := s.start(name)) is not None), None)
    if start is None:
        return None
    source, total = start
    used["start"] = {"seconds": total, "source": source.name}
    for phase in group.phases:
        if not phase.size:  # nothing to do needs no rate
            continue
        found = next(
            ((s, x) for s in sources if (x := s.seconds(name, phase, threads)) is not None), None
        )
        if found is None:
            return None
        source, seconds = found
        kernels = [k for k in phase.parts if k in source.bases]
        used[phase.unit] = {
            "per_second": phase.units / seconds if seconds else None,
            "source": source.name,
            "basis": sorted({source.bases[k] for k in kernels}) or [source.basis],
        }
        total += seconds
    return total


def memory(
    name: str, jobs: list[Jobs], measured: rates.Source | None, on_gpu: bool
) -> tuple[float, float]:
    """Peak bytes of a job, host and GPU: its data by arithmetic, and what was measured beside it."""
    host = max(group.host_bytes for group in jobs)
    on_card = max(group.gpu_bytes + group.gpu_alone_bytes * on_gpu for group in jobs)
    stage = STAGES[name]  # k-means imports torch where there is a GPU
    beside = float(IMPORTS_BYTES[stage.torch or (on_gpu and stage.gpu)])
    beside_gpu = 0.0
    if measured is not None:
        beside = max(measured.host_bytes.get(name, beside), 0.0)
        beside_gpu = max(measured.gpu_bytes.get(name, 0.0), 0.0)
    if not on_gpu:
        host += on_card
    return host + beside, on_card + beside_gpu


def total_work(jobs: list[Jobs]) -> dict[str, dict[str, float]]:
    """Units and size of each phase over all jobs of a stage."""
    found: dict[str, dict[str, float]] = {}
    for group in jobs:
        for phase in group.phases:
            both = found.setdefault(phase.unit, {"units": 0.0, "size": 0.0})
            both["units"] += group.count * phase.units
            both["size"] += group.count * phase.size
    return found


def pretraining(
    config: Config,
    known: sizes.Sizes,
    stages: dict[str, dict[str, Any]],
    sources: list[rates.Source],
    gpu_machine: bool,
) -> dict[str, Any] | None:
    """Hours of the pretraining that the run's cost is compared with; None without a setting."""
    wanted, hours, basis = config.plan.pretraining, None, "plan.pretraining.gpu_hours"
    if wanted.gpu_hours is not None:
        hours = wanted.gpu_hours
    elif wanted.tokens is not None:
        length = config.sample.sequence_length
        flops = training_flops(known.lm, wanted.tokens, length)
        step = Phase("steps", 1, {"train": flops})
        for stage_name in ("base", "evaluate"):
            for source in sources:
                seconds = source.seconds(stage_name, step)
                if hours is None and seconds is not None:
                    hours, basis = seconds / 3600, f"{wanted.tokens:,} tokens, {source.name}"
    if hours is None:
        return None
    device = "gpu_hours" if gpu_machine else "cpu_hours"
    threads = 1 if gpu_machine else stages["base"]["threads"]
    whole = hours * threads

    def besides(*left_out: str) -> float:
        return sum(s[device] or 0.0 for name, s in stages.items() if name not in left_out) / whole

    # The run's own pretraining is what it is compared with, and no selection needs CORE.
    training = ("pretrain-tokens", "pretrain", "core-task", "core")
    return {
        "hours": whole,
        "basis": basis,
        "share": besides(*training),
        "share_without_evaluation": besides(*training, "evaluate", "summarise"),
    }
