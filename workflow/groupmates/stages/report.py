"""One self-contained HTML page: what was selected, whether it helped, how surely, its cost."""

from __future__ import annotations

import hashlib
import json
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from groupmates.artefacts import ARTEFACTS
from groupmates.config import ReportSettings
from groupmates.plan.compare import compare, read_plan
from groupmates.progress import note
from groupmates.report import canvas, figures, reading, timeline, words
from groupmates.report.tally import LENGTH_EDGES, Tally
from groupmates.store import (
    Provenance,
    digests,
    read_artefact_json,
    read_folder_json,
    read_json,
    replacing,
)

MOST_SOURCES = 20  # more than a reader compares; the rest is one row
TEMPLATE = "report.html.jinja"


def run(
    settings: ReportSettings,
    *,
    random: list[Path],
    bootstrap: list[Path],
    initial: Path,
    final: Path,
    score: list[Path],
    cluster: list[Path],
    select: list[Path],
    curves: list[Path],
    summary: Path,
    benchmarks: Path,
    logs: Path,
    plan: Path | None = None,
    output: Path,
) -> None:
    """Write the page; `bootstrap` may be empty, `initial` and `final` may be the same folder."""
    found = read_artefact_json(summary, "summary")
    selected = reading.by_method(select)
    colours = canvas.palette(sorted(found["methods"] | selected), found["baseline"])
    fits = {"initial": initial, "final": final} if initial != final else {"final": final}
    rounds = {"random": random, "bootstrap": bootstrap} if bootstrap else {"random": random}
    records = reading.records(logs)
    tally, sources = reading.count_pool(score, cluster, selected)
    page = {
        "run": settings.run,
        "summary": found,
        "decimals": words.decimals_for(found),
        **evaluation(found, reading.curves(curves), colours),
        **influence({name: reading.labels(parts) for name, parts in rounds.items()}, fits),
        **selection(tally, sources, list(selected), colours),
        **cost(reading.stage_times(benchmarks), reading.gpu_use(records)),
        **when(records),
        **against_plan(plan),
        **origins(random + bootstrap, fits, score, cluster, selected, curves, summary),
    }
    provenance = Provenance(
        "report",
        settings.model_dump(mode="json"),
        digests(
            random=random,
            bootstrap=bootstrap,
            initial=initial,
            final=final,
            score=score,
            cluster=cluster,
            select=select,
            curves=curves,
            summary=summary,
            benchmarks=[benchmarks] if benchmarks.is_dir() else [],
            plan=[plan] if plan and plan.exists() else [],
        )
        # As they were read: the records of a run that goes on change from second to second.
        | {"logs": hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()},
    )
    record = json.dumps(provenance.record("report"), sort_keys=True).replace("<", "\\u003c")
    page["provenance"] = Markup(record)
    with replacing(output) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    note("report", f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def render(page: dict[str, Any]) -> str:
    """The template beside this file, filled; a name it does not find is an error."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    for name in ("count", "tokens", "percent", "number", "interval", "duration", "memory"):
        environment.filters[name] = getattr(words, name)
    return environment.get_template(TEMPLATE).render(page) + "\n"


def evaluation(
    summary: dict[str, Any], curves: dict[str, list[reading.Curve]], colours: dict[str, str]
) -> dict[str, Any]:
    """The headline: findings in words, rows of the table, best method first, and two figures."""
    methods, baseline = summary["methods"], summary["baseline"]
    ranked = sorted(methods, key=lambda m: methods[m]["mean_nats"])
    compared = {m: summary["comparisons"][m] for m in ranked if m in summary["comparisons"]}
    compared.pop(baseline, None)
    trained = [tokens[-1] for of_seeds in curves.values() for tokens, _ in of_seeds]
    training_tokens = float(max(trained))
    differences = [
        (
            method,
            comparison["difference_nats"],
            comparison.get("interval_by_seed_nats") if summary["seeds"] > 1 else None,
            comparison.get("interval_by_example_nats"),
        )
        for method, comparison in compared.items()
    ]
    ordered = {m: curves[m] for m in ranked if m in curves}
    return {
        "findings": words.findings(summary, training_tokens),
        "training_tokens": training_tokens,
        "ranked": ranked,
        "compared": compared,
        "differences_svg": Markup(figures.differences(differences, baseline, colours))
        if differences
        else None,
        "gap_svg": Markup(figures.loss_gaps(ordered, baseline, colours))
        if baseline in ordered and len(ordered) > 1
        else None,
        "loss_svg": Markup(figures.loss_curves(ordered, colours)),
    }


def influence(rounds: dict[str, reading.Labels], fits: dict[str, Path]) -> dict[str, Any]:
    """Oracle labels of each round, and how well each influence model predicts held-out ones."""
    metrics = {name: read_folder_json(fit, "fit", "metrics.json") for name, fit in fits.items()}
    held_out = {name: reading.heldout(fit) for name, fit in fits.items()}
    return {
        "rounds": {
            name: {
                "rollouts": labels.rollouts,
                "labels": len(labels.step),
                "helpful": float(np.mean(labels.influence_nats < 0)),
                "mean_nats": float(labels.influence_nats.mean()),
                "deviation_nats": float(labels.influence_nats.std()),
            }
            for name, labels in rounds.items()
        },
        "labels_svg": Markup(
            figures.label_histogram({n: labels.influence_nats for n, labels in rounds.items()})
        ),
        "positions_svg": Markup(
            figures.labels_by_position(
                {n: (labels.step, labels.influence_nats) for n, labels in rounds.items()}
            )
        ),
        "metrics": metrics,
        "relation_finding": words.relation_finding(metrics["final"]),
        "predictions_svg": {
            name: Markup(
                figures.predictions(h.predicted_nats, h.oracle_nats, h.step, f"predictions-{name}")
            )
            for name, h in held_out.items()
        },
        "relations": {
            name: {
                key: value
                for key, value in read_folder_json(fit, "fit", "relation.json").items()
                if isinstance(value, (str, int, float))
            }
            for name, fit in fits.items()
        },
    }


def selection(
    tally: Tally, sources: list[str], methods: list[str], colours: dict[str, str]
) -> dict[str, Any]:
    """What was kept: by source, length and cluster, and in common between methods."""
    groups = ["pool", *methods]
    colours = {**colours, "pool": canvas.POOL_GREY}
    documents = tally.documents_GB.sum(1)
    filled = np.flatnonzero(tally.documents_GB[0])
    bins = slice(filled[0], filled[-1] + 1)
    length_GB = tally.documents_GB[:, bins] / np.maximum(documents, 1)[:, None]
    in_cluster = tally.documents_GC[0]
    there = np.flatnonzero(in_cluster)
    kept_MC = tally.documents_GC[1:, there] / in_cluster[there]
    cluster_influence = tally.influence_C[there] / in_cluster[there]
    named, tokens_GS, documents_GS = largest_sources(tally, sources)
    share_GS = tokens_GS / np.maximum(tokens_GS.sum(1), 1)[:, None]
    known = any(sources)
    return {
        "selected": methods,
        "pool_documents": int(documents[0]),
        "kept_share": {m: documents[1 + i] / documents[0] for i, m in enumerate(methods)},
        "clusters": len(there),
        "clusters_grouped": len(there) > figures.MOST_SINGLE_CLUSTERS,
        "clusters_without": {m: int((kept_MC[i] == 0).sum()) for i, m in enumerate(methods)},
        "sources_known": known,
        "sources": [
            {
                "name": name,
                "documents": int(documents_GS[0, s]),
                "kept": [documents_GS[1 + i, s] / documents_GS[0, s] for i in range(len(methods))],
                "tokens": share_GS[:, s].tolist(),
            }
            for s, name in enumerate(named)
        ],
        "sources_svg": Markup(
            figures.source_shares(named, dict(zip(groups, share_GS, strict=True)), colours)
        )
        if known
        else None,
        "lengths_svg": Markup(
            figures.length_shares(
                LENGTH_EDGES[bins.start : bins.stop + 1],
                dict(zip(groups, length_GB, strict=True)),
                colours,
            )
        ),
        "clusters_svg": Markup(
            figures.cluster_shares(
                cluster_influence, dict(zip(methods, kept_MC, strict=True)), colours
            )
        ),
        "shared": tally.shared_MM.tolist(),
    }


def largest_sources(tally: Tally, sources: list[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, tokens [G, S] and documents [G, S] of the largest sources, then of all others."""
    order = np.lexsort((sources, -tally.tokens_GS[0]))
    shown, rest = order[:MOST_SOURCES], order[MOST_SOURCES:]
    named = [sources[s] or "(no source)" for s in shown]
    tokens, documents = tally.tokens_GS[:, shown], tally.documents_GS[:, shown]
    if len(rest):
        named.append(f"other ({len(rest):,} sources)")
        tokens = np.column_stack([tokens, tally.tokens_GS[:, rest].sum(1)])
        documents = np.column_stack([documents, tally.documents_GS[:, rest].sum(1)])
    return named, tokens, documents


def cost(times: list[reading.StageTime], gpu: dict[str, reading.GpuUse]) -> dict[str, Any]:
    """Time and memory per stage; `gpu` is empty where none was used."""
    return {
        "times": times,
        "gpu": gpu,
        "gpu_utilisation_known": any(use.utilisation is not None for use in gpu.values()),
        "times_svg": Markup(
            figures.stage_seconds([t.stage for t in times], [t.seconds for t in times])
        )
        if times
        else None,
        "total_seconds": sum(t.seconds for t in times),
        "total_jobs": sum(t.jobs for t in times),
        "peak_megabytes": max((t.peak_megabytes or 0.0 for t in times), default=0.0) or None,
    }


def when(records: reading.Records) -> dict[str, Any]:
    """The time line of all attempts."""
    bars = timeline.bars_of(records)
    return {
        "timeline_finding": timeline.finding(bars) if bars else None,
        "timeline_svg": Markup(timeline.figure(bars)) if bars else None,
    }


def against_plan(plan: Path | None) -> dict[str, Any]:
    """What was planned beside what the jobs took, whose records lie in logs/ beside the plan."""
    planned = read_plan(plan) if plan else None
    if plan is None or planned is None:
        return {"against": None, "planned_by": []}
    return {
        "against": compare(planned, plan.parent / "logs"),
        "planned_by": [f"{s['name']} ({s['basis']}, {s['date']})" for s in planned["sources"]],
    }


def origins(
    probe: list[Path],
    fits: dict[str, Path],
    score: list[Path],
    cluster: list[Path],
    selected: dict[str, dict[str, Path]],
    curves: list[Path],
    summary: Path,
) -> dict[str, Any]:
    """Settings and code of every input, files that agree in both counted together."""
    records = reading.table_records(probe, "probe")
    records += [read_json(fit / "provenance.json") for fit in fits.values()]
    records += reading.table_records(score, "score") + reading.table_records(cluster, "cluster")
    for shards in selected.values():
        records += reading.table_records(list(shards.values()), "select")
    records += [*reading.table_records(curves, "curve"), read_json(summary)["provenance"]]

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
