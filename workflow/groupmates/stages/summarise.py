"""Every method against random selection, on the held-out half of the reference."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from groupmates.artefacts.store import Provenance, concatenate, digests, read_table, write_json
from groupmates.maths.randomness import generator
from groupmates.maths.statistics import example_interval, paired_interval, tokens_to_reach
from groupmates.progress import note
from groupmates.settings.per_stage import SummarySettings

BASELINE = "random"
CONFIDENCE = 0.95


def run(
    settings: SummarySettings,
    *,
    curves: list[Path],
    examples: list[Path],
    select: list[Path],
    score: list[Path],
    output: Path,
) -> None:
    """Compare every method with random selection on the held-out half of the reference."""
    final: dict[str, list[float]] = {}
    means: dict[str, list[np.ndarray]] = {}
    tokens_P = np.empty(0)
    for path in curves:
        table = read_table(path, "curve")
        losses_P, tokens_P = table["loss_nats"].to_numpy(), table["tokens"].to_numpy()
        final.setdefault(path.parent.name, []).append(float(losses_P[-1]))
        means.setdefault(path.parent.name, []).append(losses_P)
        base_loss = float(losses_P[0])
    trained_tokens = int(tokens_P[-1])
    sums, labels = example_sums(examples)
    pool_tokens = np.concatenate(
        [read_table(p, "score", ["n_tokens"])["n_tokens"].to_numpy() for p in score]
    )
    methods = {}
    for method, losses in final.items():
        mine = [p for p in select if p.parent.name == method]
        n_tokens = concatenate(mine, "select", ["n_tokens"])["n_tokens"].to_numpy()
        methods[method] = {
            "losses_nats": losses,
            "mean_nats": float(np.mean(losses)),
            "documents": len(n_tokens),
            "tokens": int(n_tokens.sum()),
            "epochs": trained_tokens / float(n_tokens.sum()),
            "tokens_to_reach_baseline": tokens_to_reach(
                tokens_P, np.mean(means[method], axis=0), float(np.mean(final[BASELINE]))
            )
            if BASELINE in final
            else None,
        }

    @cache
    def compared(a: str, b: str) -> dict[str, Any]:
        """Method `a` minus method `b`; the trainings of one seed belong together."""
        difference = np.array(final[a]) - np.array(final[b])
        random = generator(settings.seed, "summary", a if b == BASELINE else f"{a} - {b}")
        by_example = example_interval(sums[a], sums[b], labels, CONFIDENCE, random)
        return {
            "difference_nats": float(difference.mean()),
            "interval_by_seed_nats": finite(paired_interval(difference, CONFIDENCE)),
            "interval_by_example_nats": finite(by_example),
            "confidence": CONFIDENCE,
        }

    comparisons = {}
    for method in methods.keys() - {BASELINE} if BASELINE in methods else ():
        comparisons[method] = compared(method, BASELINE)
        found = comparisons[method]
        note(
            "summarise",
            f"{method} - {BASELINE}: {found['difference_nats']:+.4f} nats, by seed "
            f"{found['interval_by_seed_nats']}, by example {found['interval_by_example_nats']}",
        )
    ranked = sorted(final, key=lambda m: float(np.mean(final[m])))
    write_json(
        output,
        "summary",
        Provenance(
            "summarise",
            settings.model_dump(mode="json"),
            digests(curves=curves, examples=examples, select=select),
        ),
        {
            "methods": methods,
            "baseline": BASELINE,
            "base_loss_nats": base_loss,
            "comparisons": comparisons,
            "pairs": {
                better: {worse: compared(better, worse) for worse in ranked[i + 1 :]}
                for i, better in enumerate(ranked)
            },
            "seeds": max(len(v) for v in final.values()),
            "trained_tokens": trained_tokens,
            "evaluation_examples": len(labels),
            "label_tokens": int(labels.sum()),
            "pool_documents": len(pool_tokens),
            "pool_tokens": int(pool_tokens.sum()),
        },
    )


def example_sums(paths: list[Path]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Summed loss per example, averaged over seeds, by method; and label tokens per example."""
    tables: dict[str, list[np.ndarray]] = {}
    labels = np.empty(0, np.int64)
    for path in paths:
        table = read_table(path, "example_losses")
        tables.setdefault(path.parent.name, []).append(table["loss_sum_nats"].to_numpy())
        labels = table["label_tokens"].to_numpy()
    return {method: np.mean(found, axis=0) for method, found in tables.items()}, labels


def finite(interval: tuple[float, float]) -> list[float] | None:
    """An interval for JSON; None where one seed gives none."""
    return list(interval) if np.isfinite(interval).all() else None
