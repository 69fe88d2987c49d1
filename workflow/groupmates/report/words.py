"""Findings as a reader should meet them: with unit, baseline and doubt."""

from __future__ import annotations

import math
from typing import Any

from groupmates.formatting import SPACE, count, interval, number, percent, tokens


def decimals_for(summary: dict[str, Any]) -> int:
    """Decimals of losses that show the narrowest interval by two digits: at least 3, at most 6."""
    names = ("interval_by_seed_nats", "interval_by_example_nats")
    found = [c.get(name) for c in summary["comparisons"].values() for name in names]
    return decimals_of([bounds for bounds in found if bounds is not None])


def decimals_of(intervals: list[list[float]]) -> int:
    halves = [(high - low) / 2 for low, high in intervals if high > low]
    if not halves:
        return 3
    return min(max(3, 1 - math.floor(math.log10(min(halves)))), 6)


def ranked(summary: dict[str, Any]) -> list[str]:
    """The methods, the one of lowest held-out loss first."""
    return sorted(summary["methods"], key=lambda m: summary["methods"][m]["mean_nats"])


def findings(summary: dict[str, Any], training_tokens: float) -> list[str]:
    """One sentence per method on its loss against the baseline, the best method first."""
    compared = [
        m for m in ranked(summary) if m in summary["comparisons"].keys() - {summary["baseline"]}
    ]
    if compared:
        return [finding(method, summary, training_tokens) for method in compared]
    return [
        f"{_kept(method, summary)}. There is no comparison: a selection and the baseline "
        f"“{summary['baseline']}” must both be in select.methods."
        for method in sorted(summary["methods"])
    ]


def _kept(method: str, summary: dict[str, Any]) -> str:
    selection = summary["methods"][method]
    share = percent(selection["tokens"] / max(summary["pool_tokens"], 1))
    return (
        f"{method} kept {count(selection['documents'])} of {count(summary['pool_documents'])} "
        f"documents ({share} of tokens)"
    )


def finding(method: str, summary: dict[str, Any], training_tokens: float) -> str:
    """What was kept, the difference in loss, its interval, and what the interval does not show."""
    comparison, seeds = summary["comparisons"][method], summary["seeds"]
    places, difference = decimals_for(summary), comparison["difference_nats"]
    by_seed = comparison.get("interval_by_seed_nats") if seeds > 1 else None
    by_example = comparison.get("interval_by_example_nats")
    bounds, kind = by_seed, f"{seeds} seeds"
    if bounds is None:
        bounds, kind = by_example, f"{count(summary['evaluation_examples'])} held-out examples"
    level = f"{100 * comparison['confidence']:g}{SPACE}%"
    doubt = f" ({level} interval {interval(bounds, places)} over {kind})" if bounds else ""
    side = f"{'below' if difference < 0 else 'above'} {summary['baseline']}"
    text = (
        f"{_kept(method, summary)}; after {tokens(training_tokens)} tokens of training its "
        f"held-out loss is {number(abs(difference), places)} nats {side}{doubt}"
    )
    if bounds is None:
        return f"{text}. Without an interval this is not evidence of a difference."
    if holds_zero(bounds):
        return f"{text}. The interval includes zero: no difference is shown."
    text += "." if difference < 0 else f": worse than {summary['baseline']}."
    if bounds is by_example:
        return f"{text} With one seed, how it varies from training to training is unknown."
    if by_example is not None and holds_zero(by_example):
        text += (
            f" Over the {count(summary['evaluation_examples'])} held-out examples the interval is "
            f"{interval(by_example, places)} and includes zero: other examples may show none."
        )
    return text


def standing(pairs: dict[str, list[float] | None], decimals: int) -> str:
    """How the best method stands to each of the others, by the intervals of its differences."""
    surely = [m for m, bounds in pairs.items() if not holds_zero(bounds)]
    unsure = [m for m in pairs if m not in surely]
    text = f"has the lowest held-out loss of {1 + len(pairs)} methods"
    if unsure:
        each = ", ".join(f"{m} ({interval(pairs[m], decimals)} nats)" for m in unsure)
        text += f", but is not shown to be better than {each}"
    if surely:
        text += f"; it is shown to be better than {', '.join(surely)}"
    return text


def holds_zero(bounds: list[float] | None) -> bool:
    """Whether a difference is not shown; of one seed there is no interval."""
    return bounds is None or bounds[0] <= 0 <= bounds[1]


def relation_finding(metrics: dict[str, Any]) -> str:
    """How well the influence model ranks held-out labels, and whether more than position does."""
    spearman, gain = metrics["spearman"], metrics["spearman_difference_interval"]
    told = [
        f"The final influence model ranks the documents of {count(metrics['rollouts']['heldout'])} "
        f"held-out rollouts as the oracle does with a Spearman correlation of "
        f"{number(spearman['full'])} (95{SPACE}% interval "
        f"{interval(metrics['spearman_interval_full'])})."
    ]
    if spearman["position_mean"] is not None and gain is not None:
        unsure = ", not shown to be better" if gain[0] <= 0 else ""
        told.append(
            f"The mean of each position alone, which knows no document, reaches "
            f"{number(spearman['position_mean'])} (95{SPACE}% interval of the difference "
            f"{interval(gain, 3)}{unsure})."
        )
    within = metrics["spearman_within_position"]["full"]
    told.append(f"Among documents at the same position the model reaches {number(within)}.")
    if trusted := metrics.get("first_order"):
        told.append(
            f"The first-order labels themselves reach {number(trusted['within_position'])} there, and "
            f"{number(trusted['first_step'])} where a rollout begins."
        )
    labels = metrics.get("label_reliability", {})  # older fits have none
    if labels.get("ceiling") is not None:
        told.append(
            f"Two labels of one document, from different rollouts, correlate at "
            f"{number(labels['correlation'])} ({count(labels['pairs'])} pairs): to know every "
            f"document's own influence would give about {number(labels['ceiling'])}."
        )
    return " ".join(told)


def groups_finding(found: dict[str, Any]) -> str:
    """How well whole sets are ranked by their true influence, and whether the relation adds to it."""
    rows = found["agreement"]
    largest = [row for row in rows if row["size"] == max(r["size"] for r in rows)]
    by_kind = " and ".join(
        f"{number(alone['value'])} over {count(row['sets'])} {KINDS_OF_SETS[row['kind']]} "
        f"(95{SPACE}% interval {interval(alone['interval'])})"
        for row in largest
        for alone in [row["spearman"]["none"]]
    )
    text = (
        f"Whole sets were drawn from {found['documents']['drawn_from']}. Of sets of "
        f"{count(largest[0]['size'])}, summed individual influence ranks the true group influence with "
        f"a Spearman correlation of {by_kind}."
    )
    cases = []
    for name, what in RELATIONS_OF_SETS.items():
        if name in rows[0]["minus_none"]:
            bounds = [row["minus_none"][name]["interval"] for row in rows]
            higher = sum(low > 0 for low, _ in bounds)
            lower = sum(high < 0 for _, high in bounds)
            cases.append(f"with {what} it is shown to be higher in {higher} and lower in {lower}")
    return (
        f"{text} Of the {len(rows)} cases of kind and size, {', '.join(cases)} "
        f"(95{SPACE}% interval of the difference without zero)."
    )


def student_finding(metrics: dict[str, Any]) -> str:
    """How a student ranks documents as the influence model does that it has learned from."""
    documents = metrics["documents"]
    return (
        f"The pool was scored by a student of the final influence model, without a GPU. On "
        f"{count(documents['heldout'])} held-out documents its influence has a Spearman correlation of "
        f"{number(metrics['spearman'])} with the model’s, their embeddings a mean cosine of "
        f"{number(metrics['cosine'])}, and {percent(metrics['quarter_overlap'])} of the model’s most "
        "helpful quarter is in the student’s."
    )


KINDS_OF_SETS = {"random": "random sets", "near": "sets of near neighbours"}


RELATIONS_OF_SETS = {
    "unit": "the selection's relation (alpha = beta = 1)",
    "fitted": "the fitted one",
}


def why(document: dict[str, Any], mark: tuple[int, float] | None, method: str) -> str:
    """Why a document was selected or not; `mark`: rank in its cluster and group influence."""
    alone = document["individual_influence"]
    text = f"Predicted influence {number(alone, 2, sign=True)} label standard deviations: "
    text += "it helps." if alone < 0 else "it harms."
    if mark is not None:
        rank, theta = mark
        if rank == 0:
            return f"{text} {method} picked it first in its cluster."
        text += f" {method} kept it, as pick {count(rank + 1)} of its cluster"
        if math.isfinite(theta):
            text += f": beside those picked before, {number(theta, 2, sign=True)} of it was left"
        return f"{text}."
    if document["passed_over"]:
        return (
            f"{text} {method} passed it over: it resembles documents of its cluster that were picked "
            "before, and less of its influence was left than of others that help less by themselves."
        )
    return f"{text} {method} did not keep it."
