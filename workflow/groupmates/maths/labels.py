"""Labels of the influence model: standardised oracle influences, and how well they are predicted.

Legend: R rollouts, T steps. Influences in nats, lower is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata


@dataclass(frozen=True)
class LabelScale:
    """Centre and scale of the influences at each step [T], in nats."""

    mean: np.ndarray
    std: np.ndarray

    def standardise(self, influence_RT: np.ndarray) -> np.ndarray:
        return (influence_RT - self.mean) / self.std

    def to_nats(self, standard_RT: np.ndarray) -> np.ndarray:
        return standard_RT * self.std + self.mean

    def extended(self, steps: int) -> LabelScale:
        """Of so many steps: those past the last are as the last."""
        place = np.minimum(np.arange(steps), len(self.mean) - 1)
        return LabelScale(self.mean[place], self.std[place])


def label_scale(training_RT: np.ndarray, per_position: bool) -> LabelScale:
    """Statistics of the training rollouts alone.

    Per position they remove what the step number does to every document's marginal; otherwise one
    mean and one standard deviation for all steps (the paper).
    """
    axis = 0 if per_position else None
    steps = training_RT.shape[1]
    mean = np.broadcast_to(training_RT.mean(axis=axis), steps)
    std = np.broadcast_to(training_RT.std(axis=axis), steps)
    return LabelScale(mean.copy(), np.maximum(std, 1e-12))


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two arrays of any one shape; 0 where one of them is constant.

    nan where a value is not finite: infinities have ranks, but are no prediction.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    return pearson(rankdata(a.ravel()), rankdata(b.ravel()))


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Linear correlation of two arrays of any one shape; 0 where one of them is constant.

    nan where a value is not finite.
    """
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("nan")
    x, y = a.ravel() - a.mean(), b.ravel() - b.mean()
    norm = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / norm) if norm > 0 else 0.0


def reliability(document_RT: np.ndarray, standard_RT: np.ndarray) -> tuple[float, int]:
    """Correlation of a document's label with its label in another rollout; number of such pairs.

    The share of the labels' variance that is the document's own: a model that knew it without error
    would correlate with the labels at its square root. nan without a pair.
    """
    _, of_label, count = np.unique(document_RT, return_inverse=True, return_counts=True)
    of_label, label = of_label.ravel(), standard_RT.ravel().astype(np.float64)
    others = count[of_label] - 1.0  # labels that each is paired with
    pairs = others.sum()
    if not pairs:
        return float("nan"), 0
    mean = others @ label / pairs
    deviation = label - mean
    total = np.bincount(of_label, deviation)
    covariance = (total @ total - deviation @ deviation) / pairs
    variance = others @ deviation**2 / pairs
    return (float(covariance / variance) if variance > 0 else float("nan")), int(pairs) // 2


def rollout_bootstrap(
    statistic: object, *arrays_RT: np.ndarray, seed: np.random.Generator, draws: int = 1000
) -> tuple[float, float]:
    """Central 95 % interval of `statistic(*arrays)` when whole rollouts are drawn anew."""
    rollouts = len(arrays_RT[0])
    values = []
    for _ in range(draws):
        rows = seed.integers(0, rollouts, rollouts)
        values.append(statistic(*(a[rows] for a in arrays_RT)))  # type: ignore[operator]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)
