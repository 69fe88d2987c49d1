"""Every method against random selection, on the held-out half of the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.config import SummarySettings
from groupmates.maths.intervals import example_interval, paired_interval
from groupmates.maths.randomness import generator
from groupmates.progress import note
from groupmates.store import Provenance, concatenate, digests, read_table, write_json

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
    base_loss = float("nan")
    trained_tokens = 0
    for path in curves:
        table = read_table(path, "curve")
        final.setdefault(path.parent.name, []).append(table["loss_nats"][-1].as_py())
        base_loss, trained_tokens = table["loss_nats"][0].as_py(), table["tokens"][-1].as_py()
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
        }
    comparisons = {}
    for method in methods.keys() - {BASELINE} if BASELINE in methods else ():
        difference = np.array(final[method]) - np.array(final[BASELINE])
        by_example = example_interval(
            sums[method],
            sums[BASELINE],
            labels,
            CONFIDENCE,
            generator(settings.seed, "summary", method),
        )
        comparisons[method] = {
            "difference_nats": float(difference.mean()),
            "interval_by_seed_nats": finite(paired_interval(difference, CONFIDENCE)),
            "interval_by_example_nats": finite(by_example),
            "confidence": CONFIDENCE,
        }
        note(
            "summarise",
            f"{method} - {BASELINE}: {difference.mean():+.4f} nats, by seed "
            f"{comparisons[method]['interval_by_seed_nats']}, by example {by_example}",
        )
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
