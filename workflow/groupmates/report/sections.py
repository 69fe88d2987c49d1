"""What the template needs of each section about the run: its effect, its models, its cost."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.found import Found
from groupmates.artefacts.store import (
    concatenate,
    read_artefact_json,
    read_folder_json,
    read_json,
    read_table,
    table_record,
)
from groupmates.cost.compare import compare, read_plan
from groupmates.maths.calibration import calibration
from groupmates.maths.randomness import generator
from groupmates.report import words
from groupmates.report.data import reading
from groupmates.report.figures import timeline
from groupmates.report.figures import training_and_influence as figures
from groupmates.settings.stages import PARTS

BINS = 10  # of the calibration: held-out steps in equal parts

Figures = dict[str, str]  # name -> inline SVG


def evaluation(
    summary: dict[str, Any], curves: dict[str, list[reading.Curve]], colours: dict[str, str]
) -> tuple[dict[str, Any], Figures]:
    """The headline: findings in words, and rows of the table, best method first."""
    baseline = summary["baseline"]
    ranked = words.ranked(summary)
    compared = {m: summary["comparisons"][m] for m in ranked if m in summary["comparisons"]}
    compared.pop(baseline, None)
    training_tokens = float(max(tokens[-1] for seeds in curves.values() for tokens, _ in seeds))
    several = summary["seeds"] > 1
    differences = [
        figures.Difference(
            method,
            comparison["difference_nats"],
            comparison.get("interval_by_seed_nats") if several else None,
            comparison.get("interval_by_example_nats"),
            by_seed(summary, method) if several else [],
        )
        for method, comparison in compared.items()
    ]
    ordered = {m: curves[m] for m in ranked if m in curves}
    drawn = {"loss": figures.loss_curves(ordered, colours)}
    if differences:
        drawn["differences"] = figures.differences(differences, baseline, colours)
    if baseline in ordered and len(ordered) > 1:
        intervals = {row.method: row.interval or row.by_example for row in differences}
        drawn["gap"] = figures.loss_gaps(ordered, baseline, intervals, colours)
    return {
        "findings": words.findings(summary, training_tokens),
        "training_tokens": training_tokens,
        "ranked": ranked,
        "compared": compared,
    }, drawn


def by_seed(summary: dict[str, Any], method: str) -> list[float]:
    """Loss after the training of each seed minus that of the baseline's of the same seed, nats."""
    ours, others = (summary["methods"][m]["losses_nats"] for m in (method, summary["baseline"]))
    return [ours_nats - nats for ours_nats, nats in zip(ours, others, strict=True)]


def influence(
    rounds: dict[str, list[Path]], fits: dict[str, Path]
) -> tuple[dict[str, Any], Figures]:
    """Oracle labels of each round, and how well each influence model predicts held-out ones."""
    metrics = {name: read_folder_json(fit, "fit", "metrics.json") for name, fit in fits.items()}
    names = ["rollout", "step", "influence_nats"]
    tables = {name: concatenate(parts, "probe", names) for name, parts in rounds.items()}
    nats = {name: table["influence_nats"].to_numpy() for name, table in tables.items()}
    steps = {name: table["step"].to_numpy() for name, table in tables.items()}
    drawn = {
        "labels": figures.label_histogram(nats),
        "positions": figures.labels_by_position({name: (steps[name], nats[name]) for name in nats}),
    }
    calibrated = {}
    columns = ("predicted_nats", "influence_nats", "step", "rollout")
    for name, fit in fits.items():
        held_out = read_table(fit / "heldout.parquet", "heldout", [*columns])
        predicted, oracle, step, rollout = (held_out[c].to_numpy() for c in columns)
        draws = generator(0, "calibration")
        calibrated[name] = calibration(predicted, oracle, rollout, BINS, draws)
        at = f"predictions-{name}"
        drawn[at] = figures.predictions(predicted, oracle, step, at)
    drawn["calibration"] = figures.calibration(calibrated)
    return {
        "rounds": {
            name: {
                "rollouts": len(table["rollout"].unique()),
                "labels": len(table),
                "helpful": float(np.mean(nats[name] < 0)),
                "mean_nats": float(nats[name].mean()),
                "deviation_nats": float(nats[name].std()),
            }
            for name, table in tables.items()
        },
        "metrics": metrics,
        "slopes": {name: c.slope for name, c in calibrated.items()},
        "relation_finding": words.relation_finding(metrics["final"]),
        "relations": {
            name: {
                key: value
                for key, value in read_folder_json(fit, "fit", "relation.json").items()
                if isinstance(value, (str, int, float))
            }
            for name, fit in fits.items()
        },
    }, drawn


def groups(paths: list[Path]) -> tuple[dict[str, Any], Figures]:
    """How well group influence is predicted; nothing where no sets were probed."""
    if not paths:
        return {"groups_finding": None}, {}
    found = read_artefact_json(paths[0], "groups")
    finding = words.groups_finding(found)
    return {"groups_finding": finding}, {"groups": figures.groups(found["agreement"])}


def student(folders: list[Path]) -> str | None:
    """How the student that scored the pool agrees with the influence model; None without one."""
    if not folders:
        return None
    return words.student_finding(read_folder_json(folders[0], "student", "metrics.json"))


def cost(
    times: list[reading.StageTime], gpu: dict[str, reading.GpuUse], records: reading.Records
) -> tuple[dict[str, Any], Figures]:
    """Time and memory per stage, and when what ran; `gpu` is empty where none was used."""
    bars = timeline.bars_of(records)
    drawn = {}
    if times:
        drawn["times"] = figures.stage_seconds([t.stage for t in times], [t.seconds for t in times])
    if bars:
        drawn["timeline"] = timeline.figure(bars)
    return {
        "times": times,
        "meanings": {t.stage: PARTS.get(t.stage, "") for t in times},
        "gpu": gpu,
        "gpu_utilisation_known": any(use.utilisation is not None for use in gpu.values()),
        "total_seconds": sum(t.seconds for t in times),
        "total_cpu_seconds": sum(t.cpu_seconds for t in times),
        "total_jobs": sum(t.jobs for t in times),
        "peak_megabytes": max((t.peak_megabytes for t in times), default=None),
        "timeline_finding": timeline.finding(bars) if bars else None,
    }, drawn


def against_plan(plan: Path) -> dict[str, Any]:
    """What was planned beside what the jobs took, whose records lie in logs/ beside the plan."""
    planned = read_plan(plan)
    if planned is None:
        return {"against": None, "planned_by": []}
    return {
        "against": compare(planned, plan.parent / "logs"),
        "planned_by": [f"{s['name']} ({s['basis']}, {s['date']})" for s in planned["sources"]],
    }


def origins(found: Found) -> dict[str, Any]:
    """Settings and code of every input, files that agree in both counted together."""
    tables = {name: name for name in ("probe", "score", "cluster", "semantic", "select", "curve")}
    tables["semantic_cluster"] = "cluster"  # written by the same stage
    records = [table_record(path, kind) for at, kind in tables.items() for path in found.all(at)]
    folders = [*found.all("fit"), *found.all("student")]
    records += [read_json(folder / "provenance.json") for folder in folders]
    for name in ("task_examples", "overlaps"):
        records += [table_record(path, name) for path in found.all(name)]
    for name in ("groups", "summary"):
        records += [read_json(path)["provenance"] for path in found.all(name)]

    def kind(record: dict[str, Any]) -> tuple[int, str, str]:
        place = list(ARTEFACTS).index(record["artefact"])
        return place, record["code"], json.dumps(record["settings"], indent=2, sort_keys=True)

    rows = []
    for (_, code, settings), alike in groupby(sorted(records, key=kind), kind):
        files = list(alike)
        rows.append(
            {
                "artefact": files[0]["artefact"],
                "meaning": ARTEFACTS[files[0]["artefact"]].meaning,
                "version": files[0]["version"],
                "stage": files[0]["stage"],
                "code": code,
                "files": len(files),
                "settings": settings,
            }
        )
    return {"origins": rows, "revisions": sorted({row["code"] for row in rows})}
