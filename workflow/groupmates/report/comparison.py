"""The methods side by side: one table for the page, as CSV and as Markdown, and its conclusion."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np

from groupmates import formatting
from groupmates.records.jobs import Attempt, seconds
from groupmates.report import words
from groupmates.report.data.reading import Records
from groupmates.report.data.repeats import MOST, Repeats
from groupmates.settings.per_stage import ReportSettings


class Jobs:
    """All jobs of a rule, or those whose wildcards have these values."""

    def __init__(self, rule: str, **wildcards: str) -> None:
        self.rule, self.wildcards = rule, wildcards

    def have(self, job: Attempt) -> bool:
        return job["rule"] == self.rule and self.wildcards.items() <= job["wildcards"].items()


def _scored_by(model: str) -> list[Jobs]:
    return [Jobs(rule, model=model) for rule in ("score_by", "distil", "score_student_by")]


# By what the products are made that a selector needs (`charged` of a Need). The base model is not
# counted: whoever selects for a model has it.
DOCUMENTS = [Jobs("check"), Jobs("check_pool")]
SAMPLE = [*DOCUMENTS, Jobs("sample"), Jobs("reference")]
INITIAL = [
    *SAMPLE,
    *(Jobs("plan_random"), Jobs("probe", round="random")),
    *(Jobs("fit", model="initial"), Jobs("accept", model="initial")),
]
SEMANTIC = [*SAMPLE, Jobs("fit_semantic"), Jobs("embed")]
PRODUCTS = {
    "documents": DOCUMENTS,
    "sample": SAMPLE,
    "scores": [
        *INITIAL,
        *(Jobs("plan_bootstrap"), Jobs("probe", round="bootstrap"), Jobs("first_order")),
        *(Jobs("fit", model="final"), Jobs("accept", model="final"), Jobs("score")),
        *(Jobs("distil", model="final"), Jobs("score_student")),
    ],
    "scores_of_initial": [*INITIAL, *_scored_by("initial")],
    "scores_of_one_step": [
        *SAMPLE,
        *(Jobs("plan_one_step"), Jobs("probe", round="one_step")),
        *(Jobs("fit", model="one_step"), *_scored_by("one_step")),
    ],
    # Made of the final model's scores; of the initial one's they would cost the same.
    "clusters": [Jobs("centroids"), Jobs("cluster")],
    "semantic": SEMANTIC,
    "semantic_clusters": [*SEMANTIC, Jobs("centroids_semantic"), Jobs("cluster_semantic")],
}
ORACLE = "oracle_greedy"
# The jobs of a method that come after its selection.
AFTER = ("materialise", "tokenise", "assemble", "evaluate", "pretrain_tokens", "pretrain_model")


def jobs_of(records: Records, needed: list[Jobs]) -> list[list[Attempt]]:
    """The attempts at the jobs of these kinds, each of them once."""
    return [a for a in records.values() if any(kind.have(a[-1]) for kind in needed)]


def seconds_of(records: Records, needed: list[Jobs]) -> float:
    """What the finished jobs of these kinds took together."""
    return sum(seconds(attempts) or 0 for attempts in jobs_of(records, needed))


def selecting(records: Records, method: str, charged: list[str]) -> list[Jobs]:
    """All jobs that this method would have needed by itself, its dataset not included.

    What several methods share counts in full for each of them.
    """
    shared = [jobs for product in charged for jobs in PRODUCTS[product]]
    rules = {attempts[-1]["rule"] for attempts in records.values()}
    return [*shared, *(Jobs(rule, method=method) for rule in rules.difference(AFTER))]


def selection_seconds(records: Records, method: str, charged: list[str]) -> float:
    """Seconds of these jobs."""
    return seconds_of(records, selecting(records, method, charged))


def training_seconds(records: Records, method: str, seeds: int) -> float | None:
    """Seconds of the base model and of one training on the method's selection, mean over seeds."""
    trained = sum(
        seconds_of(records, [Jobs("evaluate", method=method, seed=str(seed))])
        for seed in range(seeds)
    )
    return seconds_of(records, [Jobs("base")]) + trained / seeds if trained else None


def table(
    summary: dict[str, Any], settings: ReportSettings, records: Records
) -> list[dict[str, Any]]:
    """A row per method, best first; losses in nats, lower is better."""
    ranked = words.ranked(summary)
    training = training_seconds(records, summary["baseline"], summary["seeds"])
    rows = []
    for method in ranked:
        found = summary["methods"][method]
        against = summary["comparisons"].get(method, {})
        by_seed = against.get("interval_by_seed_nats") or [None, None]
        by_example = against.get("interval_by_example_nats") or [None, None]
        reached = found["tokens_to_reach_baseline"]
        selector = settings.selectors.get(method, method)
        spent = selection_seconds(records, method, settings.charged.get(method, []))
        rows.append(
            {
                "method": method,
                "selector": selector,
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
                "selection_seconds": spent,
                "selection_per_random_training": spent / training if training else None,
            }
        )
    return rows


def add_repeats(rows: list[dict[str, Any]], found: dict[str, Repeats]) -> None:
    """Share of each method's documents with a near-duplicate before them, of so many looked at."""
    for row in rows:
        ours = found.get(row["method"])
        row["near_duplicate_share"] = ours.share if ours else None
        row["near_duplicates_sought_in"] = ours.documents if ours else 0


def unsought(rows: list[dict[str, Any]]) -> str | None:
    """What was not looked at for near-duplicates; None where everything was."""
    partly = [row for row in rows if row["near_duplicates_sought_in"] < row["documents"]]
    if not partly:
        return None
    if not any(row["near_duplicates_sought_in"] for row in rows):
        return "Near-duplicates were not sought, as no texts were read: see report.texts_gigabytes."
    each = ", ".join(
        f"{formatting.count(row['near_duplicates_sought_in'])} of {formatting.count(row['documents'])} "
        f"documents of {row['method']}"
        for row in partly
    )
    return (
        f"Near-duplicates were sought among {each}: at most {formatting.count(MOST)} of a method, "
        "drawn evenly by a hash from those whose text was read. One whose like was not drawn goes "
        "unseen, so that these shares are lower bounds."
    )


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
    at = methods.index(oracle)
    for row in rows:
        method = row["method"]
        ours = method == oracle
        difference, bounds = (None, None) if ours else _minus(summary["pairs"], method, oracle)
        row["oracle_overlap"] = float(shared_MM[at, methods.index(method)] / shared_MM[at, at])
        row["regret_nats"] = difference
        row["regret_low_nats"], row["regret_high_nats"] = bounds or (None, None)
    return oracle


def _minus(
    pairs: dict[str, dict[str, Any]], method: str, other: str
) -> tuple[float, list[float] | None]:
    """Difference of two methods and its interval over seeds; pairs have the better one first."""
    if other in pairs.get(method, {}):
        found = pairs[method][other]
        return found["difference_nats"], found["interval_by_seed_nats"]
    found = pairs[other][method]
    bounds = found["interval_by_seed_nats"]
    return -found["difference_nats"], bounds and [-bounds[1], -bounds[0]]


def as_csv(rows: list[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def markdown(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown, its cells without spaces that do not break."""
    head, *lines = (f"| {' | '.join(cells)} |\n" for cells in [heads, *rows])
    return "".join([head, "|" + "---|" * len(heads) + "\n", *lines]).replace(formatting.SPACE, " ")


def as_markdown(rows: list[dict[str, Any]], decimals: int) -> str:
    oracle = "regret_nats" in rows[0]
    heads = ["method", "loss, nats", "minus random", "by seed", "by example"]
    heads += ["training tokens saved", "tokens selected", "near-duplicates", "selection took"]
    heads += ["of random's training"]
    heads += ["overlap with oracle", "regret", "by seed"] if oracle else []
    lines = []
    for row in rows:
        cells = [
            row["method"],
            formatting.number(row["loss_nats"], decimals),
            formatting.number(row["minus_random_nats"], decimals, sign=True),
            formatting.interval(_bounds(row, "by_seed"), decimals),
            formatting.interval(_bounds(row, "by_example"), decimals),
            formatting.percent(row["training_tokens_saved"]),
            formatting.count(row["tokens"]),
            formatting.percent(row["near_duplicate_share"]),
            formatting.duration(row["selection_seconds"]),
            formatting.times(row["selection_per_random_training"]),
        ]
        if oracle:
            cells += [
                formatting.percent(row["oracle_overlap"]),
                formatting.number(row["regret_nats"], decimals, sign=True),
                formatting.interval(_bounds(row, "regret"), decimals),
            ]
        lines.append(cells)
    return markdown(heads, lines)


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
    intervals = {m: pairs[m]["interval_by_seed_nats"] for m in others}
    text = f"{best} {words.standing(intervals, places)}"
    level = f"{100 * pairs[others[0]]['confidence']:g}"
    return (
        f"{text} ({level}{formatting.SPACE}% intervals over {seeds} seeds of one selection each)."
    )
