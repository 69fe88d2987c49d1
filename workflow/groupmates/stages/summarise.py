"""Every method against random selection, on the held-out half of the reference."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from groupmates.artefacts.found import Found
from groupmates.artefacts.store import Provenance, concatenate, read_table, write_json
from groupmates.maths.randomness import generator
from groupmates.maths.statistics import example_interval, paired_interval, tokens_to_reach
from groupmates.progress import note
from groupmates.settings.per_stage import SummarySettings

BASELINE = "random"
CONFIDENCE = 0.95


def run(settings: SummarySettings, *, inputs: list[Path], output: Path) -> None:
    """Compare every method with random selection on the held-out half of the reference.

    `inputs` are the curves, example losses and selections of all methods, and the scored pool.
    """
    found = Found(output.parent.parent, inputs)
    trained = {method: trainings(paths) for method, paths in found.by("method", "curve").items()}
    comparison = Comparison(settings.seed, trained, *example_sums(found))
    first = next(iter(trained.values()))
    pool_tokens = np.concatenate([tokens_of([p], "score") for p in found.all("score")])
    ranked = sorted(trained, key=lambda method: trained[method].mean_nats)
    others = [method for method in trained if method != BASELINE]
    comparisons = {
        method: comparison.minus(method, BASELINE) for method in others if BASELINE in trained
    }
    body = {
        "methods": {
            method: row(trained[method], tokens_of(select, "select"), trained.get(BASELINE))
            for method, select in found.by("method", "select").items()
        },
        "baseline": BASELINE,
        "base_loss_nats": float(first.losses_SP[-1][0]),
        "comparisons": comparisons,
        "pairs": {
            better: {worse: comparison.minus(better, worse) for worse in ranked[i + 1 :]}
            for i, better in enumerate(ranked)
        },
        "seeds": max(len(training.losses_SP) for training in trained.values()),
        "trained_tokens": int(first.tokens_P[-1]),
        "evaluation_examples": len(comparison.labels_E),
        "label_tokens": int(comparison.labels_E.sum()),
        "pool_documents": len(pool_tokens),
        "pool_tokens": int(pool_tokens.sum()),
    }
    for method, against in comparisons.items():
        note(
            "summarise",
            f"{method} - {BASELINE}: {against['difference_nats']:+.4f} nats, by seed "
            f"{against['interval_by_seed_nats']}, by example {against['interval_by_example_nats']}",
        )
    provenance = Provenance.of(
        "summarise",
        settings,
        curves=found.all("curve"),
        examples=found.all("example_losses"),
        select=found.all("select"),
    )
    write_json(output, "summary", provenance, body)


@dataclass(frozen=True)
class Trainings:
    """The held-out losses of a method's trainings: S seeds, P points of so many tokens."""

    tokens_P: np.ndarray
    losses_SP: list[np.ndarray]

    @property
    def final_S(self) -> list[float]:
        return [float(losses_P[-1]) for losses_P in self.losses_SP]

    @property
    def mean_nats(self) -> float:
        return float(np.mean(self.final_S))


def trainings(curves: list[Path]) -> Trainings:
    tables = [read_table(path, "curve") for path in curves]
    losses = [table["loss_nats"].to_numpy() for table in tables]
    return Trainings(tables[-1]["tokens"].to_numpy(), losses)


def tokens_of(paths: list[Path], artefact: str) -> np.ndarray:
    """Tokens of each document of these tables."""
    found: np.ndarray = concatenate(paths, artefact, ["n_tokens"])["n_tokens"].to_numpy()
    return found


def row(trained: Trainings, n_tokens: np.ndarray, baseline: Trainings | None) -> dict[str, Any]:
    """What is told of one method by itself."""
    reached = None
    if baseline is not None:
        mean_P = np.mean(trained.losses_SP, axis=0)
        reached = tokens_to_reach(trained.tokens_P, mean_P, baseline.mean_nats)
    return {
        "losses_nats": trained.final_S,
        "mean_nats": trained.mean_nats,
        "documents": len(n_tokens),
        "tokens": int(n_tokens.sum()),
        "epochs": int(trained.tokens_P[-1]) / float(n_tokens.sum()),
        "tokens_to_reach_baseline": reached,
    }


@dataclass(frozen=True)
class Comparison:
    """Differences of two methods; `sums_E`: the loss of each held-out example, mean over seeds."""

    seed: int
    trained: dict[str, Trainings]
    sums_E: dict[str, np.ndarray]
    labels_E: np.ndarray

    def minus(self, a: str, b: str) -> dict[str, Any]:
        """Method `a` minus method `b`; the trainings of one seed belong together."""
        difference_S = np.array(self.trained[a].final_S) - np.array(self.trained[b].final_S)
        random = generator(self.seed, "summary", a if b == BASELINE else f"{a} - {b}")
        by_example = example_interval(
            self.sums_E[a], self.sums_E[b], self.labels_E, CONFIDENCE, random
        )
        return {
            "difference_nats": float(difference_S.mean()),
            "interval_by_seed_nats": finite(paired_interval(difference_S, CONFIDENCE)),
            "interval_by_example_nats": finite(by_example),
            "confidence": CONFIDENCE,
        }


def example_sums(found: Found) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Summed loss per example, averaged over seeds, by method; and label tokens per example."""
    sums, labels_E = {}, np.empty(0, np.int64)
    for method, paths in found.by("method", "example_losses").items():
        tables = [read_table(path, "example_losses") for path in paths]
        sums[method] = np.mean([table["loss_sum_nats"].to_numpy() for table in tables], axis=0)
        labels_E = tables[-1]["label_tokens"].to_numpy()
    return sums, labels_E


def finite(interval: tuple[float, float]) -> list[float] | None:
    """An interval for JSON; None where one seed gives none."""
    return list(interval) if np.isfinite(interval).all() else None
