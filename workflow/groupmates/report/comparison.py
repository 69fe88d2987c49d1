"""The methods side by side: one table for the page, as CSV and as Markdown, and its conclusion."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np

from groupmates.report import words
from groupmates.report.reading import benchmark_seconds

# What a method of each selector needs beside its own jobs: names of benchmarks. The base model is not
# counted: whoever selects for a model has it.
POOL = ["check/*", "sample.tsv", "sample/*"]
GROUP = [
    *("probe/plan_random.tsv", "probe/random_*", "probe/plan_bootstrap.tsv", "probe/bootstrap_*"),
    *("fit/initial.tsv", "fit/final.tsv", "score/[0-9]*", "cluster/*"),
]
ONE_STEP = [
    *("probe/plan_one_step.tsv", "probe/one_step_*", "fit/one_step.tsv", "score/one_step_*"),
]
ORACLE = "oracle_greedy"
SHARED = {
    "group_mates": [*POOL, *GROUP],
    "mates": [*POOL, *ONE_STEP],
    "quality": POOL,
    "semdedup": [*POOL, *GROUP],  # its embeddings are those of the influence model
    ORACLE: POOL,
    "quad": [*POOL, *GROUP],  # its clusters, too
    "random": ["check/*"],
}


def selection_seconds(benchmarks: Path, method: str, selector: str) -> float:
    """Seconds of all jobs that this method would have needed by itself, its dataset not included."""
    own = [f"fit/{method}.tsv", f"select/{method}.tsv", f"select/take_{method}.tsv"]
    own += [f"select/{method}_[0-9]*", f"probe/quad_{method}.tsv"]
    return benchmark_seconds(benchmarks, [*SHARED[selector], *own])


def table(
    summary: dict[str, Any], selectors: dict[str, str], benchmarks: Path
) -> list[dict[str, Any]]:
    """A row per method, best first; losses in nats, lower is better."""
    ranked = words.ranked(summary)
    rows = []
    for method in ranked:
        found = summary["methods"][method]
        against = summary["comparisons"].get(method, {})
        by_seed = against.get("interval_by_seed_nats") or [None, None]
        by_example = against.get("interval_by_example_nats") or [None, None]
        reached = found["tokens_to_reach_baseline"]
        rows.append(
            {
                "method": method,
                "selector": selectors.get(method, method),
                "loss_nats": found["mean_nats"],
                "minus_random_nats": against.get("difference_nats"),
                "by_seed_low_nats": by_seed[0],
                "by_seed_high_nats": by_seed[1],
                "by_example_low_nats": by_example[0],
                "by_example_high_nats": by_example[1],
                "training_tokens_saved": None
                if reached is None
                else 1 - reached / summary["trained_tokens"],
                "documents": found["documents"],
                "tokens": found["tokens"],
                "epochs": found["epochs"],
                "selection_seconds": selection_seconds(
                    benchmarks, method, selectors.get(method, method)
                ),
            }
        )
    return rows


def add_oracle(
    rows: list[dict[str, Any]],
    summary: dict[str, Any],
    methods: list[str],
    shared_MM: np.ndarray,
) -> str | None:
    """Overlap and regret of each row against oracle_greedy, whose name is returned where it is there.

    `shared_MM`: documents that two of `methods` both selected. Overlap: share of the oracle's
    documents that the method selected, too. Regret: held-out loss minus that of the oracle, nats.
    """
    oracles = [row["method"] for row in rows if row["selector"] == ORACLE]
    if not oracles:
        return None
    oracle = ORACLE if ORACLE in oracles else oracles[0]  # the best, where all are variants
    shared_M = shared_MM[methods.index(oracle)]
    for row in rows:
        method = row["method"]
        ours = method == oracle
        difference, bounds = (
            (None, [None, None]) if ours else _minus(summary["pairs"], method, oracle)
        )
        row["oracle_overlap"] = float(shared_M[methods.index(method)] / shared_M.max())
        row["regret_nats"] = difference
        row["regret_low_nats"], row["regret_high_nats"] = bounds
    return oracle


def _minus(
    pairs: dict[str, dict[str, Any]], method: str, other: str
) -> tuple[float, list[float] | list[None]]:
    """Difference of two methods and its interval over seeds; pairs have the better one first."""
    ahead = other in pairs.get(method, {})
    found = pairs[method][other] if ahead else pairs[other][method]
    difference, bounds = found["difference_nats"], found["interval_by_seed_nats"]
    if not ahead:
        difference, bounds = -difference, bounds and [-bounds[1], -bounds[0]]
    return difference, bounds or [None, None]


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def as_markdown(rows: list[dict[str, Any]], decimals: int) -> str:
    oracle = "regret_nats" in rows[0]
    lines = [
        "| method | loss, nats | minus random | by seed | by example | training tokens saved | "
        "tokens selected | selection took |" + " overlap with oracle | regret | by seed |" * oracle,
        "|---|---|---|---|---|---|---|---|" + "---|---|---|" * oracle,
    ]
    for row in rows:
        saved = row["training_tokens_saved"]
        cells = [
            row["method"],
            words.number(row["loss_nats"], decimals),
            words.number(row["minus_random_nats"], decimals, sign=True),
            words.interval(_bounds(row, "by_seed"), decimals),
            words.interval(_bounds(row, "by_example"), decimals),
            words.NOTHING if saved is None else words.percent(saved),
            words.count(row["tokens"]),
            words.duration(row["selection_seconds"]),
        ]
        if oracle:
            cells += [
                words.percent(row["oracle_overlap"]),
                words.number(row["regret_nats"], decimals, sign=True),
                words.interval(_bounds(row, "regret"), decimals),
            ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines).replace(words.SPACE, " ") + "\n"


def _bounds(row: dict[str, Any], kind: str) -> list[float] | None:
    low, high = row[f"{kind}_low_nats"], row[f"{kind}_high_nats"]
    return None if low is None or high is None else [low, high]


def conclusion(summary: dict[str, Any]) -> str:
    """One sentence: which method is best, and which others it cannot be told from."""
    ranked = words.ranked(summary)
    best, others = ranked[0], ranked[1:]
    pairs, places = summary["pairs"][best], words.decimals_for(summary)
    seeds = summary["seeds"]
    if seeds < 2:
        return f"{best} has the lowest loss; with one seed, by how much is unknown."
    surely = [m for m in others if not words.holds_zero(pairs[m]["interval_by_seed_nats"])]
    unsure = [m for m in others if m not in surely]
    text = f"{best} has the lowest held-out loss of {len(ranked)} methods"
    if unsure:
        each = ", ".join(
            f"{m} ({words.interval(pairs[m]['interval_by_seed_nats'], places)} nats)"
            for m in unsure
        )
        text += f", but is not shown to be better than {each}"
    if surely:
        text += f"; it is shown to be better than {', '.join(surely)}"
    level = f"{100 * pairs[others[0]]['confidence']:g}"
    return f"{text} ({level}{words.SPACE}% intervals over {seeds} seeds of one selection each)."
