"""One self-contained HTML page: what was selected, whether it helped, how surely, its cost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from groupmates.artefacts import catalogue
from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.found import Found
from groupmates.artefacts.store import (
    Provenance,
    digests,
    read_artefact_json,
    replacing,
)
from groupmates.artefacts.store import (
    pool_of as pool_of_tables,
)
from groupmates.pool.listing import PoolFile, located
from groupmates.progress import note
from groupmates.report import atlas, comparison, examples, kept, overlaps, sections, words
from groupmates.report.data import reading, repeats, texts
from groupmates.report.figures import canvas
from groupmates.report.rendering import render
from groupmates.settings.per_stage import ReportSettings


def run(
    settings: ReportSettings,
    *,
    inputs: list[Path],
    pool: list[str],
    output: Path,
    figures: list[Path],
) -> None:
    """Write the page and, beside it, its figures and the comparison as files of their own.

    `inputs` are all that the page tells of, in the folder where it is written. Files of the `pool` are
    read for texts alone: some may be gone, but none may be another one than was scored.
    """
    found = Found(output.parent, inputs)
    records = reading.records(found.run / "logs")
    scored = pool_of_tables(found.all("score"), "score")
    files = [replace(file, identity=scored.get(file.name)) for file in located(pool)]
    page, drawn, rows = content(settings, found, records, files)
    provenance = Provenance("report", settings.model_dump(mode="json"), made_of(found, records))
    record = json.dumps(provenance.record("report"), sort_keys=True).replace("<", "\\u003c")
    page["provenance"] = Markup(record)
    table = str(found.run / catalogue.path("comparison"))
    written = {
        **{path: canvas.alone(drawn.get(path.stem)) for path in figures},
        Path(table.format(format="csv")): comparison.as_csv(rows),
        Path(table.format(format="md")): comparison.as_markdown(rows, page["decimals"]),
        output: render("report", page),
    }
    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    note("report", f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def content(
    settings: ReportSettings, found: Found, records: reading.Records, pool: list[PoolFile]
) -> tuple[dict[str, Any], sections.Figures, list[dict[str, Any]]]:
    """What the template needs, the figures by name, and the rows of the comparison."""
    summary = read_artefact_json(found.one("summary"), "summary")
    selected = reading.by_method(found.all("select"))
    colours = canvas.palette(sorted(summary["methods"] | selected), summary["baseline"])
    effect, drawn_effect = sections.evaluation(summary, reading.curves(found.all("curve")), colours)
    featured = next((m for m in effect["ranked"] if m != summary["baseline"]), summary["baseline"])
    looked_at = pool_of(settings, found, selected, pool, featured)
    readable = texts.readable(looked_at.files, settings.report.texts_gigabytes * 1e9)
    surveyed, looked, drawn_pool = examples.examine(looked_at, readable, settings, featured)
    shares, drawn_shares = kept.shares(surveyed.tally, surveyed.sources, list(selected), colours)
    fits = {name: fit for name, (fit,) in found.by("model", "fit").items()}
    honesty, drawn_honesty = sections.influence(found.by("round", "probe"), fits)
    of_groups, drawn_groups = sections.groups(found.all("groups"))
    spent, drawn_times = sections.cost(
        reading.stage_times(records), reading.gpu_use(records), records
    )
    drawn = drawn_effect | drawn_honesty | drawn_groups | drawn_pool | drawn_shares | drawn_times
    rows = comparison.table(summary, settings, records)
    in_order = [file for file in looked_at.files if file in readable]
    comparison.add_repeats(rows, repeats.repeats(selected, in_order, settings.text_columns))
    oracle = comparison.add_oracle(rows, summary, list(selected), surveyed.tally.shared_MM)
    page = {
        "comparison": rows if len(rows) > 2 else [],
        "oracle": oracle,
        "unsought": comparison.unsought(rows),
        "conclusion": comparison.conclusion(summary) if len(rows) > 2 else None,
        "run": settings.run,
        "summary": summary,
        "decimals": words.decimals_for(summary),
        **effect,
        **honesty,
        **of_groups,
        "student_finding": sections.student(found.all("student")),
        **looked,
        **shares,
        **overlaps.section(found, summary["pool_documents"]),
        **spent,
        **sections.against_plan(found.run / catalogue.path("plan")),
        **sections.origins(found),
        "figures": {name: Markup(svg) for name, svg in drawn.items()},
        "plotly": Markup(atlas.plotly()),
    }
    return page, drawn, rows


def pool_of(
    settings: ReportSettings,
    found: Found,
    selected: dict[str, dict[str, Path]],
    files: list[PoolFile],
    featured: str,
) -> examples.Pool:
    """The pool as the featured method sees it: by meaning, where its clusters are semantic."""
    score, meaning = found.all("score"), found.all("semantic")
    of_meaning = settings.clusters.get(featured) == "semantic"
    prefix = "semantic_" if of_meaning else ""
    return examples.Pool(
        score,
        found.all(f"{prefix}cluster"),
        selected,
        found.one(f"{prefix}centroids"),
        files,
        clustered=meaning if of_meaning else score,
        compared=meaning if "semantic" in settings.charged.get(featured, []) else score,
        dropped=overlaps.dropped(found),
    )


def made_of(found: Found, records: reading.Records) -> dict[str, str]:
    """Digests of what the page was made of."""
    plan = found.run / catalogue.path("plan")
    parts = {name: found.all(name) for name in ARTEFACTS if found.all(name)}
    # The records as they were read: those of a run that goes on change from second to second.
    told = hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()
    return digests(**parts, plan=[plan] if plan.exists() else []) | {"logs": told}
