"""Pretrained models of a run as small arrays: their curves through all stages, and what each cost.

Legend: S training seeds, P points of a curve, E held-out examples, N questions of a task. Losses are
in nats per label token; lower is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from groupmates.artefacts.catalogue import line_of
from groupmates.artefacts.found import Found
from groupmates.artefacts.store import read_table, table_record
from groupmates.cost import done
from groupmates.cost.sizes import shape_of
from groupmates.maths.flops import training_flops
from groupmates.pool.core_tasks import Task
from groupmates.records.jobs import Attempt, counted, duration
from groupmates.report.comparison import Jobs, jobs_of, selecting
from groupmates.report.data import reading
from groupmates.report.data.reading import Curve, Records
from groupmates.settings.config import Config
from groupmates.settings.lines import FIRST, later

# First-order labels need no rollouts: the figures of the influence model do.
AUDIT = [Jobs("plan_random"), Jobs("probe", round="random")]


@dataclass(frozen=True)
class Cost:
    """What jobs took: GPU-hours, core-hours of CPU time, and operations by arithmetic."""

    gpu_hours: float = 0.0
    core_hours: float = 0.0
    flop: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def times(self, factor: float) -> Cost:
        return Cost(*(factor * amount for amount in astuple(self)))


@dataclass(frozen=True)
class Asked:
    """A task's questions, put to a method's models: right or not, loss of the right answer [S, N]."""

    task: Task
    correct_SN: np.ndarray
    nats_SN: np.ndarray
    bytes_N: np.ndarray


@dataclass(frozen=True)
class Trained:
    """The pretrainings of a method, by training seed, and what one of them costs.

    `begins`: training tokens at which each stage begins. `selections`: what each stage's cost.
    `token`: of training. `sums_E`: summed loss of each held-out example, mean over seeds.
    """

    name: str
    curves: dict[int, Curve]
    begins: list[float]
    selections: list[Cost]
    token: Cost
    sums_E: np.ndarray
    labels_E: np.ndarray
    tasks: dict[str, Asked]

    @property
    def tokens(self) -> int:
        """Of a whole training."""
        return max(int(tokens_P[-1]) for tokens_P, _ in self.curves.values())

    def final_nats(self, seed: int) -> float:
        return float(self.curves[seed][1][-1])

    @property
    def mean_nats(self) -> float:
        return float(np.mean([self.final_nats(seed) for seed in self.curves]))

    def selected(self, tokens: float) -> Cost:
        """Of the selections that a training of so many tokens needs."""
        due = [c for c, at in zip(self.selections, self.begins, strict=True) if at < tokens]
        return sum(due or self.selections[:1], Cost())

    def spent(self, tokens: float) -> Cost:
        """In total, up to so many tokens."""
        return self.selected(tokens) + self.token.times(tokens)


@dataclass(frozen=True)
class Pretrained:
    """A run's pretrained models by method. `apart`: of audit, evaluation, datasets and report.

    `devices`: of training and selection; `gpu`: whether these are GPUs. `recorded`: whether records
    tell of trainings at all.
    """

    methods: dict[str, Trained]
    apart: Cost
    devices: frozenset[str]
    gpu: bool
    recorded: bool

    @property
    def measure(self) -> str | None:
        """By which part of a Cost methods are compared; None where nothing is known."""
        return measure(self.devices, self.gpu) if self.recorded else None


def measure(devices: frozenset[str], gpu: bool) -> str:
    """Hours, where they are of one kind of device; operations, where they are not."""
    if len(devices) != 1:
        return "flop"
    return "gpu_hours" if gpu else "core_hours"


def of_run(
    run: Path, config: Config, charged: dict[str, list[str]], paths: Sequence[Path]
) -> Pretrained:
    """What a run's models, curves, examples and predictions tell, which are `paths`, and its records.

    `charged`: the shared products that each method is charged for.
    """
    found = {line: Found(run / line, files) for line, files in _by_line(run, config, paths).items()}
    logs = reading.records_by_line(run / "logs")
    shape = shape_of(str(found[FIRST].all("pretrained")[0]), config.plan.checkpoint, "checkpoint")
    each = done.per_unit(config, run)
    numbers = range(1, 1 + len(config.pretrain.stages))
    of_method = {m: [line_of(n, m) for n in numbers] for m in config.pretrain.methods}
    trainings = [
        attempts
        for line, of_line in logs.items()
        for attempts in of_line.values()
        if _trains(attempts[-1], line, of_method, config.pretrain.seeds)
    ]
    selections = {
        (line, method): _selecting(logs.get(line, {}), method, charged, config)
        for method, stages in of_method.items()
        for line in stages
    }
    curves = {m: _curves([found[line] for line in stages], m) for m, stages in of_method.items()}
    tokens = [int(tokens_P[-1]) for by_seed in curves.values() for tokens_P, _ in by_seed.values()]
    taken = cost_of(trainings, {}).times(1 / sum(tokens))
    operations = training_flops(shape, 1.0, config.sample.sequence_length)
    token = Cost(taken.gpu_hours, taken.core_hours, operations)
    begins = [share * tokens[0] for share in config.pretrain.bounds[:-1]]
    methods = {}
    for method, by_seed in curves.items():
        stages = of_method[method]
        last = found[stages[-1]].all("pretrain_examples", method=method)
        examples = [read_table(path, "pretrain_examples") for path in last]
        models = [found[FIRST].all("core_predictions", lm=f"{method}_{s}") for s in by_seed]
        methods[method] = Trained(
            method,
            by_seed,
            begins,
            [cost_of(selections[line, method], each) for line in stages],
            token,
            np.mean([table["loss_sum_nats"].to_numpy() for table in examples], axis=0),
            examples[-1]["label_tokens"].to_numpy(),
            _asked(models),
        )
    own = [*trainings, *chain(*selections.values())]
    rest = [a for of_line in logs.values() for a in of_line.values() if not _among(a, own)]
    gpu = any(_uses_gpu(a) for a in chain(*trainings))
    return Pretrained(
        methods,
        cost_of([a for a in rest if a[-1]["rule"] != "base"], each),
        frozenset(a["device"] for a in chain(*own) if _uses_gpu(a) or not gpu),
        gpu,
        bool(trainings),
    )


def _by_line(run: Path, config: Config, paths: Sequence[Path]) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        place = path.relative_to(run).as_posix()
        line = next((line for line in later(config) if place.startswith(line)), FIRST)
        found.setdefault(line, []).append(path)
    return found


def _curves(stages: list[Found], method: str) -> dict[int, Curve]:
    """A method's curves through all stages, by seed."""
    pieces: dict[int, list[Curve]] = {}
    for found in stages:
        for path in found.all("pretrain_curve", method=method):
            table = read_table(path, "pretrain_curve", ["tokens", "heldout_nats"])
            curve = table["tokens"].to_numpy(), table["heldout_nats"].to_numpy()
            pieces.setdefault(int(path.stem.removeprefix("seed-")), []).append(curve)
    return {seed: _joined(pieces[seed]) for seed in sorted(pieces)}


def _joined(pieces: list[Curve]) -> Curve:
    tokens, nats = zip(*pieces, strict=True)
    return np.concatenate(tokens), np.concatenate(nats)


def _asked(models: list[list[Path]]) -> dict[str, Asked]:
    """The tasks that all of a method's models were asked, by name; `models`: predictions of each."""
    by_task: dict[str, list[Path]] = {}
    for path in chain(*models):
        by_task.setdefault(path.stem, []).append(path)
    found = {}
    for name, paths in by_task.items():
        if len(paths) == len(models):
            tables = [read_table(path, "core_predictions") for path in paths]
            correct, nats = (
                np.stack([table[column].to_numpy() for table in tables]).astype(np.float64)
                for column in ("correct", "answer_nats")
            )
            made = table_record(paths[0], "core_predictions")["settings"]["task"]
            task = Task.model_validate(made)
            found[name] = Asked(task, correct, nats, tables[0]["answer_bytes"].to_numpy())
    return found


def _trains(attempt: Attempt, line: str, of_method: dict[str, list[str]], seeds: int) -> bool:
    """Whether the job is one of the trainings that are asked for; a run may have made others."""
    if attempt["stage"] != "pretrain":
        return False
    wildcards = attempt["wildcards"]
    lines = of_method.get(wildcards["method"], [])
    return line in lines and int(wildcards["seed"]) < seeds


def _selecting(
    found: Records, method: str, charged: dict[str, list[str]], config: Config
) -> list[list[Attempt]]:
    """The jobs that a method's selection needs.

    A base model that the run makes is one of them where the trainings do not go on from it.
    """
    needed = selecting(found, method, charged[method])
    if config.pretrain.start == "scratch" and set(charged[method]) != {"documents"}:
        needed.append(Jobs("base"))
    first_order = config.probe.labels == "first_order"
    return [
        attempts
        for attempts in jobs_of(found, needed)
        if not (first_order and any(kind.have(attempts[-1]) for kind in AUDIT))
    ]


def _among(attempts: list[Attempt], others: list[list[Attempt]]) -> bool:
    return any(attempts is other for other in others)


def _uses_gpu(attempt: Attempt) -> bool:
    return attempt["gpu_peak_bytes"] is not None


def cost_of(jobs: Sequence[list[Attempt]], each: done.PerUnit) -> Cost:
    """Of finished jobs; `each`: operations of a unit of work."""
    found = Cost()
    for attempts in map(counted, jobs):
        for attempt in attempts:
            # A record is of the first process, and the others do as it does.
            hours = attempt.get("processes", 1) / 3600
            found += Cost(
                hours * duration(attempt) if _uses_gpu(attempt) else 0.0,
                hours * attempt["cpu_seconds"],
            )
        found += Cost(flop=done.flop(attempts, each))
    return found
