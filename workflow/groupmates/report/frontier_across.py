"""Pretrained models of several runs beside each other, such as one stage against two.

The trainings of one seed belong together in all runs: they begin with the same weights. Every method
is compared with random of the first run that has it, and with the same method of the first run.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from groupmates.artefacts.catalogue import line_of, path
from groupmates.artefacts.store import table_record
from groupmates.errors import UserError
from groupmates.report import frontier, several_runs
from groupmates.report.data import pretrained
from groupmates.report.data.pretrained import Pretrained
from groupmates.settings.config import Config, leaves
from groupmates.settings.per_stage import FrontierSettings, PretrainSettings

BASELINE = "random"
# What the trainings of one seed have in common; with pretrain.start: base, the probed model too.
ALIKE = (
    *("seed", "reference", "sample.sequence_length", "sample.vocabulary_size", "sample.tokenizer"),
    *(f"pretrain.{key}" for key in ("start", "architecture", "batch_sequences", "learning_rate")),
    *(f"pretrain.{key}" for key in ("warmup_steps", "decay_share", "decay_to")),
)


@dataclass(frozen=True)
class Run:
    """A run whose models are trained, and its files that are read."""

    folder: Path
    config: Config
    files: list[Path]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @classmethod
    def of(cls, folder: Path) -> Run:
        """`UserError` where a model is missing, or is of other settings than the run's."""
        finish = (
            f"let snakemake finish them: --configfile FILE --config run={folder.name} -- pretrain"
        )
        begun = several_runs.begun(folder, f"correct the folder, or {finish}")
        config = Config.model_validate(begun["config"])
        config.pretrain.check_methods()
        files = _files(folder, config)
        missing = [file for file in files if not file.exists()]
        if missing:
            raise UserError(
                expected="runs with all of their pretrained models",
                found=f"{len(missing):,} files missing, such as {missing[0].relative_to(folder)}",
                where=str(folder),
                todo=finish,
            )
        wanted = PretrainSettings.of(config).model_dump(mode="json")
        for file in files:
            if file.suffix == ".parquet" and not file.stem.endswith(".examples"):
                made = table_record(file, "pretrain_curve")["settings"]
                if any(made[key] != wanted[key] for key in ("seed", "training")):
                    raise UserError(
                        expected="trainings by the run's present configuration",
                        found="one of other settings",
                        where=str(file),
                        todo=finish,
                    )
        # What CORE has asked of them.
        asked = (file for m in config.pretrain.names for file in folder.glob(f"core/{m}/*.parquet"))
        return cls(folder, config, [*files, *sorted(asked)])


def _files(folder: Path, config: Config) -> list[Path]:
    stages = range(1, 1 + len(config.pretrain.stages))
    return [
        folder / line_of(stage, method) / path(name).format(method=method, seed=seed)
        for method in config.pretrain.methods
        for stage in stages
        for seed in range(config.pretrain.seeds)
        for name in ("pretrain_curve", "pretrain_examples", "pretrained")
    ]


def compare(folders: list[Path], output: Path) -> str:
    """Write frontier.html, .csv, .md and frontier-tasks.csv to the folder `output`; the sentences."""
    runs = [Run.of(folder) for folder in folders]
    _check(runs, output)
    found = {run.name: _read(run) for run in runs}
    methods = {
        f"{name}: {method}": replace(trained, name=f"{name}: {method}")
        for name, of_run in found.items()
        for method, trained in of_run.methods.items()
    }
    page = frontier.page(
        frontier.Compared(
            title=f"runs {', '.join(found)}",
            methods=methods,
            pairs=_pairs(found),
            measure=_measure(list(found.values())),
            apart={name: of_run.apart for name, of_run in found.items()},
            examples=runs[0].config.core.examples,
            seed=runs[0].config.seed,
        )
    )
    frontier.write(output, page, {"runs": [run.config.model_dump(mode="json") for run in runs]})
    return "\n".join([*page.content["sentences"], f"{output}/frontier.html, .csv and .md"])


def _read(run: Run) -> Pretrained:
    charged = FrontierSettings.of(run.config).charged
    return pretrained.of_run(run.folder, run.config, charged, run.files)


def _pairs(found: dict[str, Pretrained]) -> list[tuple[str, str]]:
    """What is compared with what: first all with random, then each method with itself elsewhere."""
    names = [(run, method) for run, of_run in found.items() for method in of_run.methods]
    baseline = next((name for name in names if name[1] == BASELINE), None)
    pairs = [(name, baseline) for name in names if baseline and name != baseline]
    for name in names:
        first = next(other for other in names if other[1] == name[1])
        if first not in (name, baseline):
            pairs.append((name, first))
    return [(": ".join(a), ": ".join(b)) for a, b in pairs]


def _measure(found: list[Pretrained]) -> str | None:
    """Hours where all runs had one kind of device."""
    if not all(of_run.recorded for of_run in found):
        return None
    if len({of_run.gpu for of_run in found}) > 1:
        return "flop"
    devices = frozenset().union(*(of_run.devices for of_run in found))
    return pretrained.measure(devices, found[0].gpu)


def _check(runs: list[Run], output: Path) -> None:
    """That there are several runs with names of their own, whose trainings can be paired."""
    names = [run.name for run in runs]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise UserError(
            expected="at least two runs, each once",
            found=", ".join(names),
            where="RUN...",
            todo="name the folders of runs whose pretrained models shall be compared",
        )
    several_runs.check_outside([run.folder for run in runs], output, "frontier")
    first = _alike(runs[0].config)
    for run in runs[1:]:
        ours = _alike(run.config)
        if differing := several_runs.differing(first, ours):
            key = differing[0]
            raise UserError(
                expected="runs whose trainings of one seed begin alike and are measured alike",
                found=f"{key}: {json.dumps(first.get(key))} in {runs[0].folder}, "
                f"{json.dumps(ours.get(key))} in {run.folder}",
                where=f"{len(differing):,} such settings",
                todo="compare runs that differ in their selection or in pretrain.stages",
            )


def _alike(config: Config) -> dict[str, Any]:
    names = [*ALIKE, *(["base"] if config.pretrain.start == "base" else ["base.optimizer"])]
    found = leaves(config.model_dump(mode="json"))
    return {k: v for k, v in found.items() if any(k == n or k.startswith(f"{n}.") for n in names)}
