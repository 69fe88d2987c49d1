"""One self-contained HTML page: what was selected, whether it helped, how surely, its cost."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from groupmates import formatting
from groupmates.artefacts.store import Provenance, digests, read_artefact_json, replacing
from groupmates.pool.listing import located
from groupmates.progress import note
from groupmates.report import atlas, comparison, examples, kept, sections, words
from groupmates.report.data import reading, repeats, texts
from groupmates.report.figures import canvas
from groupmates.settings.per_stage import ReportSettings

TEMPLATE = "report.html.jinja"
FILTERS = (
    *("count", "tokens", "percent", "times", "number", "interval"),
    *("duration", "memory", "beginning"),
)


def run(
    settings: ReportSettings,
    *,
    random: list[Path],
    bootstrap: list[Path],
    initial: Path,
    final: Path,
    groups: list[Path] | None = None,
    score: list[Path],
    cluster: list[Path],
    centroids: Path,
    semantic: list[Path] | None = None,
    semantic_cluster: list[Path] | None = None,
    semantic_centroids: list[Path] | None = None,
    select: list[Path],
    curves: list[Path],
    summary: Path,
    logs: Path,
    pool: list[str],
    root: str,
    plan: Path | None = None,
    output: Path,
    figures: list[Path],
    tables: list[Path],
) -> None:
    """Write the page, its figures as files of their own, each called by its name, and the
    comparison as `tables`, .csv and .md.

    `bootstrap` may be empty, `groups` is one file or none, `initial` and `final` may be the same
    folder; `semantic…` are there where a method has semantic clusters, the centroids as a list of
    one. Of the `pool` files, which lie below the folder `root`, some may be gone: they are read for
    texts alone.
    """
    found = read_artefact_json(summary, "summary")
    selected = reading.by_method(select)
    colours = canvas.palette(sorted(found["methods"] | selected), found["baseline"])
    fits = {"initial": initial, "final": final} if initial != final else {"final": final}
    rounds = {"random": random, "bootstrap": bootstrap} if bootstrap else {"random": random}
    records = reading.records(logs)
    effect, drawn_effect = sections.evaluation(found, reading.curves(curves), colours)
    featured = next((m for m in effect["ranked"] if m != found["baseline"]), found["baseline"])
    meaning = semantic or []
    of_meaning = settings.clusters.get(featured) == "semantic"
    looked_at = examples.Pool(
        score,
        (semantic_cluster or []) if of_meaning else cluster,
        selected,
        semantic_centroids[0] if of_meaning and semantic_centroids else centroids,
        located(pool, root),
        clustered=meaning if of_meaning else score,
        compared=meaning if "semantic" in settings.charged.get(featured, []) else score,
    )
    readable = texts.readable(looked_at.files, settings.report.texts_gigabytes * 1e9)
    surveyed, looked, drawn_pool = examples.examine(looked_at, readable, settings, featured)
    shares, drawn_shares = kept.shares(surveyed.tally, surveyed.sources, list(selected), colours)
    labels = {name: reading.labels(parts) for name, parts in rounds.items()}
    honesty, drawn_honesty = sections.influence(labels, fits)
    of_groups, drawn_groups = sections.groups(groups[0] if groups else None)
    spent, drawn_times = sections.cost(
        reading.stage_times(records), reading.gpu_use(records), records
    )
    drawn = drawn_effect | drawn_honesty | drawn_groups | drawn_pool | drawn_shares | drawn_times
    rows = comparison.table(found, settings, records)
    in_order = [file for file in looked_at.files if file in readable]
    comparison.add_repeats(rows, repeats.repeats(selected, in_order, settings.text_columns))
    oracle = comparison.add_oracle(rows, found, list(selected), surveyed.tally.shared_MM)
    decimals = words.decimals_for(found)
    page = {
        "comparison": rows if len(rows) > 2 else [],
        "oracle": oracle,
        "unsought": comparison.unsought(rows),
        "conclusion": comparison.conclusion(found) if len(rows) > 2 else None,
        "run": settings.run,
        "summary": found,
        "decimals": decimals,
        **effect,
        **honesty,
        **of_groups,
        **looked,
        **shares,
        **spent,
        **sections.against_plan(plan),
        **sections.origins(
            random + bootstrap,
            fits,
            groups or [],
            score,
            meaning,
            cluster + (semantic_cluster or []),
            selected,
            curves,
            summary,
        ),
        "figures": {name: Markup(svg) for name, svg in drawn.items()},
        "plotly": Markup(atlas.plotly()),
    }
    provenance = Provenance(
        "report",
        settings.model_dump(mode="json"),
        digests(
            random=random,
            bootstrap=bootstrap,
            initial=initial,
            final=final,
            groups=groups or [],
            score=score,
            cluster=cluster,
            centroids=centroids,
            semantic=meaning,
            semantic_cluster=semantic_cluster or [],
            semantic_centroids=semantic_centroids or [],
            select=select,
            curves=curves,
            summary=summary,
            plan=[plan] if plan and plan.exists() else [],
        )
        # As they were read: the records of a run that goes on change from second to second.
        | {"logs": hashlib.sha256(json.dumps(records, sort_keys=True).encode()).hexdigest()},
    )
    record = json.dumps(provenance.record("report"), sort_keys=True).replace("<", "\\u003c")
    page["provenance"] = Markup(record)
    for path in figures:
        with replacing(path) as temporary:
            temporary.write_text(canvas.alone(drawn.get(path.stem)), encoding="utf-8")
    written = {".csv": comparison.as_csv(rows), ".md": comparison.as_markdown(rows, decimals)}
    for path in tables:
        with replacing(path) as temporary:
            temporary.write_text(written[path.suffix], encoding="utf-8")
    with replacing(output) as temporary:
        temporary.write_text(render(page), encoding="utf-8")
    note("report", f"{output}: {output.stat().st_size / 1e6:.1f} MB")


def render(page: dict[str, Any]) -> str:
    """The template, filled; a name it does not find is an error."""
    environment = Environment(
        loader=PackageLoader("groupmates.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    for name in FILTERS:
        environment.filters[name] = getattr(formatting, name)
    return environment.get_template(TEMPLATE).render(page) + "\n"
