"""Finished runs that differ in the sampling seed alone, merged: what another selection would give.

A run has one selection, and its interval over training seeds says nothing of another draw of the
sample, the rollouts or the clusters. Here a run counts once, by the mean over its training seeds,
and intervals are over R runs. Losses in nats, lower is better.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groupmates import formatting
from groupmates.artefacts.catalogue import path
from groupmates.artefacts.store import read_artefact_json, replacing
from groupmates.errors import UserError
from groupmates.maths.statistics import paired_interval
from groupmates.records import jobs
from groupmates.report import several_runs, words
from groupmates.report.comparison import as_csv, markdown
from groupmates.report.figures import canvas
from groupmates.report.figures import training_and_influence as figures
from groupmates.settings.config import leaves

CONFIDENCE = 0.95
# What may differ, or changes no loss. Of variants those of the compared methods are looked at.
FREE = ("run", "seed", "report", "plan", "materialise", "select.methods")
VARIANTS = "select.variants."
SHOWN = 3  # differing settings that are told


@dataclass(frozen=True)
class Run:
    """A finished run; `loss_nats`: of each method, mean over its training seeds."""

    folder: Path
    settings: dict[str, Any]
    summary: dict[str, Any]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def loss_nats(self) -> dict[str, float]:
        return {m: found["mean_nats"] for m, found in self.summary["methods"].items()}

    @classmethod
    def of(cls, folder: Path) -> Run:
        """`UserError` where the run is not finished, or was not made by its configuration."""
        finish = f"let snakemake finish the run: --configfile FILE --config run={folder.name}"
        if not (folder / path("summary")).exists():
            raise UserError(
                expected=f"finished runs, with {path('summary')}",
                found="a folder without it" if folder.is_dir() else "no such folder",
                where=str(folder),
                todo=f"correct the folder, or {finish}",
            )
        summary = read_artefact_json(folder / path("summary"), "summary")
        begun = several_runs.begun(folder, f"{finish} --forcerun summarise")
        if not _summarised(folder / "logs", begun):
            raise UserError(
                expected="finished runs",
                found=f"a {path('summary')} that snakemake was to make anew, and has not",
                where=str(folder),
                todo=finish,
            )
        seed = summary["provenance"]["settings"]["seed"]
        if seed != begun["config"]["seed"]:
            raise UserError(
                expected=f"a summary of the run's seed, {begun['config']['seed']}",
                found=f"one of seed {seed}",
                where=str(folder / path("summary")),
                todo=finish,
            )
        return cls(folder, begun["config"], summary)


def _summarised(logs: Path, begun: dict[str, Any]) -> bool:
    """Whether the summary is what snakemake wanted when it started last, however that ended."""
    job = begun["jobs"].get("summarise", {"needed": False})
    record = logs / "summarise.json"
    if not job["needed"] or job.get("finished"):
        return True
    attempts = jobs.read_record(record)
    done = bool(attempts) and attempts[-1]["state"] == "done"
    return done and record.stat().st_mtime >= begun["begun"]


@dataclass(frozen=True)
class Spread:
    """Differences of two methods [R], one a run; their mean and its interval over runs."""

    single: list[float]
    mean: float
    interval: list[float]

    @classmethod
    def of(cls, runs: Sequence[Run], method: str, other: str) -> Spread:
        difference_R = np.array([r.loss_nats[method] - r.loss_nats[other] for r in runs])
        bounds = paired_interval(difference_R, CONFIDENCE)
        return cls(difference_R.tolist(), float(difference_R.mean()), list(bounds))

    @property
    def below(self) -> int:
        return sum(difference < 0 for difference in self.single)


@dataclass(frozen=True)
class Merged:
    """`methods`: of all runs, best first. `left_out`: of some runs. `references`: subtracted, too."""

    runs: list[Run]
    baseline: str
    methods: list[str]
    left_out: list[str]
    references: list[str]

    def minus(self, method: str, other: str) -> Spread | None:
        return None if method == other else Spread.of(self.runs, method, other)

    @property
    def decimals(self) -> int:
        found = [self.minus(m, self.baseline) for m in self.methods]
        return words.decimals_of([spread.interval for spread in found if spread])


def compare(folders: list[Path], output: Path) -> str:
    """Write comparison.csv, .md and .svg to the folder `output`; what was found, in a sentence."""
    merged = merge([Run.of(folder) for folder in folders])
    several_runs.check_outside([run.folder for run in merged.runs], output, "comparison")
    written = {"csv": as_csv(rows(merged)), "md": as_markdown(merged), "svg": drawn(merged)}
    for kind, text in written.items():
        with replacing(output / f"comparison.{kind}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return f"{conclusion(merged)}\n{output}/comparison.csv, .md and .svg"


def merge(runs: list[Run]) -> Merged:
    """Check that the runs can be merged, and rank their methods by the mean over runs."""
    where = ", ".join(str(run.folder) for run in runs)
    if len(runs) < 2:
        raise UserError(
            expected="at least two runs",
            found=f"{len(runs)}",
            where=where,
            todo="make another: the same --configfile FILE with --config seed=1 run=NAME",
        )
    of_seed: dict[int, Run] = {}
    for run in runs:
        first = of_seed.setdefault(run.settings["seed"], run)
        if first is not run:
            raise UserError(
                expected="runs of different seeds: the same seed selects the same documents",
                found=f"seed {run.settings['seed']} twice",
                where=f"{first.folder}, {run.folder}",
                todo="leave one of them out",
            )
    baseline = runs[0].summary["baseline"]
    wanted = [*runs[0].settings["select"]["methods"], *(m for run in runs for m in run.loss_nats)]
    listed = [m for m in dict.fromkeys(wanted) if any(m in run.loss_nats for run in runs)]
    common = [m for m in listed if all(m in run.loss_nats for run in runs)]
    if baseline not in common or len(common) < 2:
        raise UserError(
            expected=f"{baseline} and at least one other method in all runs",
            found="; ".join(f"{r.folder}: {', '.join(r.summary['methods'])}" for r in runs),
            where=where,
            todo="give all runs the same select.methods, and run snakemake again",
        )
    _check_alike(runs, common)
    others = [m for m in common if m != baseline]
    mean = {m: float(np.mean([run.loss_nats[m] for run in runs])) for m in common}
    return Merged(
        runs=runs,
        baseline=baseline,
        methods=sorted(common, key=lambda m: mean[m]),
        left_out=[m for m in listed if m not in common],
        references=[m for m in dict.fromkeys(["mates", others[0]]) if m in others],
    )


def _check_alike(runs: list[Run], methods: list[str]) -> None:
    """That no setting differs which a loss depends on, nor the number of the pool's documents."""
    first = _compared(runs[0], methods)
    for run in runs[1:]:
        found = _compared(run, methods)
        if differing := several_runs.differing(first, found):
            told = [
                f"{k}: {_shown(first, k)} in {runs[0].folder}, {_shown(found, k)} in {run.folder}"
                for k in differing[:SHOWN]
            ]
            if len(differing) > SHOWN:
                told.append(f"and {len(differing) - SHOWN} more")
            raise UserError(
                expected="runs that differ in seed and run alone",
                found="\n          ".join(told),
                where=f"{runs[0].folder}, {run.folder}",
                todo="compare runs of one configuration, made with --config seed=… run=…",
            )


def _compared(run: Run, methods: list[str]) -> dict[str, Any]:
    found = {}
    for key, value in leaves(run.settings).items():
        free = any(key == name or key.startswith(f"{name}.") for name in FREE)
        foreign = key.startswith(VARIANTS) and key.split(".")[2] not in methods
        if not free and not foreign:
            found[key] = value
    if run.settings["pool"]["paths"] != "builtin":  # whose documents depend on the seed
        found["documents in the pool"] = run.summary["pool_documents"]
    return found


def _shown(settings: dict[str, Any], key: str) -> str:
    return json.dumps(settings[key]) if key in settings else "absent"


def rows(merged: Merged) -> list[dict[str, Any]]:
    """A row per method, best first."""
    found = []
    for method in merged.methods:
        row: dict[str, Any] = {"method": method, "runs": len(merged.runs)}
        row["loss_nats"] = float(np.mean([run.loss_nats[method] for run in merged.runs]))
        for other in (merged.baseline, *merged.references):
            spread = merged.minus(method, other)
            low, high = spread.interval if spread else (None, None)
            row[f"minus_{other}_nats"] = spread.mean if spread else None
            row[f"minus_{other}_low_nats"], row[f"minus_{other}_high_nats"] = low, high
        spread = merged.minus(method, merged.baseline)
        row[f"runs_below_{merged.baseline}"] = spread.below if spread else None
        for number, run in enumerate(merged.runs):
            key = f"seed_{run.settings['seed']}_minus_{merged.baseline}_nats"
            row[key] = spread.single[number] if spread else None
        found.append(row)
    return found


def as_markdown(merged: Merged) -> str:
    """The table, the conclusion, and what the figures are."""
    places, baseline = merged.decimals, merged.baseline
    heads = ["method", f"minus {baseline}", "over runs", f"runs below {baseline}"]
    heads += [f"{run.name} (seed {run.settings['seed']})" for run in merged.runs]
    heads += [head for m in merged.references for head in (f"minus {m}", "over runs")]
    lines = []
    for method in merged.methods:
        spread = merged.minus(method, baseline)
        single = spread.single if spread else [None] * len(merged.runs)
        cells = [
            method,
            *_cells(spread, places),
            f"{spread.below} of {len(merged.runs)}" if spread else formatting.NOTHING,
            *(formatting.number(difference, places, sign=True) for difference in single),
        ]
        for other in merged.references:
            cells += _cells(merged.minus(method, other), places)
        lines.append(cells)
    text = f"{markdown(heads, lines)}\n{conclusion(merged)}\n\n{note(merged)}\n"
    return text.replace(formatting.SPACE, " ")


def _cells(spread: Spread | None, places: int) -> list[str]:
    return [
        formatting.number(spread.mean if spread else None, places, sign=True),
        formatting.interval(spread.interval if spread else None, places),
    ]


def conclusion(merged: Merged) -> str:
    """One sentence: which method is best over the runs, and which others it cannot be told from."""
    best, others = merged.methods[0], merged.methods[1:]
    places, count = merged.decimals, len(merged.runs)
    pairs = {m: Spread.of(merged.runs, best, m).interval for m in others}
    text = f"Over {count} runs of different seeds {best} {words.standing(dict(pairs), places)}"
    spread = merged.minus(best, merged.baseline)
    if spread is not None:
        side = "below" if spread.mean < 0 else "above"
        nats = formatting.number(abs(spread.mean), places)
        text += (
            f"; its loss is {nats} nats {side} {merged.baseline} "
            f"({formatting.interval(spread.interval, places)}), "
            f"below it in {spread.below} of {count} runs"
        )
    level = f"{100 * CONFIDENCE:g}{formatting.SPACE}%"
    return f"{text} ({level} intervals over runs, each for one pair of methods by itself)."


def note(merged: Merged) -> str:
    """What a run is, what differs between them, and what is not compared."""
    settings = merged.runs[0].settings
    drawn_anew = ["the sample", "the probes", "the influence model", "the selections"]
    if settings["base"]["checkpoint"] is None:
        drawn_anew.insert(0, "the base model")
    if settings["pool"]["paths"] == "builtin":
        drawn_anew.insert(0, "the built-in corpus")
    seeds = merged.runs[0].summary["seeds"]
    text = (
        f"Held-out loss in nats per label token, lower is better; each run by its mean over "
        f"{seeds} training {'seed' if seeds == 1 else 'seeds'}. Over runs: Student's t, "
        f"n = {len(merged.runs)}. With the seed change {', '.join(drawn_anew)} and the trainings."
    )
    if merged.left_out:
        text += f" Not in all runs, and left out: {', '.join(merged.left_out)}."
    revisions = sorted({run.summary["provenance"]["code"] for run in merged.runs})
    if len(revisions) > 1:
        text += f" The runs were made by different code: {', '.join(revisions)}."
    return text


def drawn(merged: Merged) -> str:
    """The methods below each other, every run a dot, as an SVG file."""
    found = {m: merged.minus(m, merged.baseline) for m in merged.methods}
    lines = [
        figures.Difference(m, spread.mean, spread.interval, single=spread.single)
        for m, spread in found.items()
        if spread
    ]
    colours = canvas.palette(sorted(merged.methods), merged.baseline)
    return canvas.alone(figures.differences(lines, merged.baseline, colours, "runs"))
