"""How fast a machine is: from the job records of a run that was planned, or from a file.

A run folder gives rates of whole phases (work of a phase per second, by stage and unit) and the
seconds of a stage's jobs beside their phases: start, imports, loading, writing. A file gives rates
of kernels, each with its basis. The first source that knows a rate counts; none is made up.
"""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from groupmates.cost.jobs import KERNELS, ON_ALL_CORES, Phase
from groupmates.errors import UserError
from groupmates.records import jobs

PLAN = "plan.json"


@dataclass
class Source:
    """Where rates come from. `phases`: (stage, unit) -> size per second; `starts`: seconds a job."""

    name: str
    date: str
    machine: str
    gpu: bool
    basis: str  # measured or assumed
    phases: dict[tuple[str, str], float] = field(default_factory=dict)
    starts: dict[str, float] = field(default_factory=dict)
    kernels: dict[str, float] = field(default_factory=dict)
    bases: dict[str, str] = field(default_factory=dict)  # of kernels
    busy: dict[str, float] = field(default_factory=dict)  # CPU seconds per second, by stage
    host_bytes: dict[str, float] = field(default_factory=dict)  # beside what the plan knew of
    gpu_bytes: dict[str, float] = field(default_factory=dict)
    on_gpu: dict[str, bool] = field(default_factory=dict)
    scheduling: float | None = None  # seconds from the end of a job to the start of the next

    def describe(self) -> dict[str, Any]:
        keys = ("name", "date", "machine", "gpu", "basis")
        return {key: getattr(self, key) for key in keys}

    def seconds(self, stage: str, phase: Phase, threads: int = 1) -> float | None:
        """Seconds of a phase of a job with so many threads; None where a rate is not known."""
        rate = self.phases.get((stage, phase.unit))
        if rate is not None:
            return phase.size / rate
        if any(kernel not in self.kernels for kernel in phase.parts):
            return None
        each = {
            kernel: amount / self.kernels[kernel] / (threads if kernel in ON_ALL_CORES else 1)
            for kernel, amount in phase.parts.items()
        }
        ahead = sum(each.pop(kernel) for kernel in phase.ahead & each.keys())
        # Without a GPU both have the same cores.
        return max(ahead, sum(each.values())) if self.gpu else ahead + sum(each.values())

    def start(self, stage: str) -> float | None:
        found = self.starts.get(stage)
        return self.kernels.get("start") if found is None else found


def sources(named: list[str] | None, root: Path) -> list[Source]:
    """The sources of plan.rates, or the calibration of the run in folder `root`.

    Named ones must be there and hold rates; without names, no source is an answer too.
    """
    if named is None:
        # Not the run itself: compared with its own rates it would be planned perfectly.
        calibrated = of_run(root.with_name(root.name + "-calibration"))
        return [calibrated] if calibrated else []
    found = []
    for name in named:
        path = Path(name)
        source = of_run(path) if path.is_dir() else of_file(path)
        if source is None:
            raise UserError(
                expected="a run that was planned and has run: plan.json and logs/",
                found="no plan.json beside records of finished jobs",
                where=f"{name}, named in plan.rates",
                todo="run snakemake plan for that run first, or name a results/RUN-calibration that "
                "make calibrate has made, or null",
            )
        found.append(source)
    return found


def of_file(path: Path) -> Source:
    """Rates of kernels: {machine, gpu, date, basis, rates: {kernel: {per_second, basis}}}."""
    try:
        body = json.loads(path.read_text())
        rates = body["rates"]
        unknown = rates.keys() - {*KERNELS, "scheduling"}
        if unknown:
            raise ValueError(f"unknown kernels {sorted(unknown)}")
        if body["basis"] not in ("assumed", "measured"):
            raise ValueError(f"the basis {body['basis']!r}")
        values = {name: float(rate["per_second"]) for name, rate in rates.items()}
        if wrong := [name for name, value in values.items() if not value > 0]:
            raise ValueError(f"a rate of {wrong[0]} that is not above 0")
        scheduling = values.pop("scheduling", None)
        return Source(
            str(path),
            body["date"],
            body["machine"],
            bool(body["gpu"]),
            body["basis"],
            kernels=values | ({"start": 1 / values["start"]} if "start" in values else {}),
            bases={name: rate["basis"] for name, rate in rates.items()},
            scheduling=None if scheduling is None else 1 / scheduling,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            expected="a JSON file {machine, gpu, date, basis: assumed or measured, rates: {KERNEL: "
            f"{{per_second, basis}}}}}} with kernels of {', '.join(KERNELS)}, scheduling",
            found=f"{type(error).__name__}: {error}",
            where=f"{path}, named in plan.rates",
            todo="correct the file, or name a folder results/RUN in plan.rates",
        ) from error


def of_run(folder: Path) -> Source | None:
    """Rates of a run by its job records and its plan; None where it has none of either."""
    try:
        planned = json.loads((folder / PLAN).read_text())["stages"]
    except (OSError, ValueError, KeyError):
        return None
    attempts = [a for job in jobs.read_records(folder / "logs") for a in job]
    done = [a for a in attempts if a["state"] == "done" and a["stage"] in planned]
    if not done:
        return None
    by_stage: dict[str, list[dict[str, Any]]] = {}
    for attempt in done:
        by_stage.setdefault(attempt["stage"], []).append(attempt)
    gpus = [a["device"] for a in done if a["gpu_peak_bytes"]]
    processors = sorted({a["device"] for a in done if not a["gpu_peak_bytes"]})
    cores = max(a["cores"] for a in done)
    machine = ", ".join(sorted({f"GPU {g}" for g in gpus}) + [f"{p}" for p in processors])
    newest = time.strftime("%Y-%m-%d", time.localtime(max(a["ended"] for a in done)))
    source = Source(
        str(folder),
        newest,
        f"{machine}, {cores} cores",
        bool(gpus),
        "measured",
        scheduling=gap(done),
    )
    for stage, found in by_stage.items():
        add_stage(source, stage, found, planned[stage])
    return source


def add_stage(
    source: Source, stage: str, attempts: list[dict[str, Any]], planned: dict[str, Any]
) -> None:
    """The rates of one stage, from its finished attempts and the sizes that were planned for it."""
    counted: dict[str, list[float]] = {}
    beside = []
    took = [jobs.duration(a) for a in attempts]
    for attempt, seconds in zip(attempts, took, strict=True):
        phases = [p for p in attempt["phases"] if p["unit"] in planned["work"]]
        for phase in phases:
            total = counted.setdefault(phase["unit"], [0.0, 0.0])
            total[0] += phase["done"] - phase["resumed"]
            total[1] += phase["seconds"]
        beside.append(max(0.0, seconds - sum(p["seconds"] for p in phases)))
    for unit, (units, seconds) in counted.items():
        known = planned["work"][unit]
        if units > 0 and seconds > 0 and known["units"] > 0:
            source.phases[stage, unit] = units / seconds * known["size"] / known["units"]
    source.starts[stage] = statistics.mean(beside)
    source.busy[stage] = sum(a["cpu_seconds"] for a in attempts) / max(sum(took), 1e-9)
    gpu = [a["gpu_peak_bytes"] or 0 for a in attempts]
    source.on_gpu[stage] = any(gpu)
    data = planned["host_data_bytes"] + (0 if any(gpu) else planned["gpu_data_bytes"])
    source.host_bytes[stage] = max(a["peak_rss_bytes"] for a in attempts) - data
    if any(gpu):
        source.gpu_bytes[stage] = max(gpu) - planned["gpu_data_bytes"]


def gap(attempts: list[dict[str, Any]]) -> float | None:
    """Median seconds from the latest end of a job before another starts to that start."""
    gaps = []
    for attempt in attempts:
        ends = [a["ended"] for a in attempts if a["ended"] <= attempt["started"]]
        if ends:
            gaps.append(attempt["started"] - max(ends))
    return statistics.median(gaps) if gaps else None
