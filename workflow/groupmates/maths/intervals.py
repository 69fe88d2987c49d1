"""Intervals of a difference between two methods, by training seed and by held-out example."""

from __future__ import annotations

import numpy as np
from scipy.stats import t as student


def paired_interval(differences: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student's t interval of the mean of paired differences [seeds]; infinite for one seed."""
    n = len(differences)
    if n < 2:
        return -np.inf, np.inf
    half = student.ppf((1 + confidence) / 2, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return float(differences.mean() - half), float(differences.mean() + half)


def example_interval(
    sum_a: np.ndarray,
    sum_b: np.ndarray,
    labels: np.ndarray,
    confidence: float,
    generator: np.random.Generator,
    draws: int = 2000,
) -> tuple[float, float]:
    """Bootstrap interval, examples drawn anew, of the difference in mean loss per label token.

    `sum_a`, `sum_b`: summed losses [examples] (averaged over seeds); `labels`: tokens of each.
    """
    n = len(labels)
    values = np.empty(draws)
    for draw in range(draws):
        rows = generator.integers(0, n, n)
        values[draw] = (sum_a[rows].sum() - sum_b[rows].sum()) / labels[rows].sum()
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)
