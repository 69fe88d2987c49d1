"""Correlations, intervals by training seed, rollout or held-out example, and reading a loss curve."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

import numpy as np
from scipy.special import nctdtrinc, stdtrit

LEVEL, POWER = 0.05, 0.8  # of a two-sided test; how surely it finds a difference
MOST_SEEDS = 10_000


def paired_interval(differences: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student's t interval of the mean of paired differences [seeds]; infinite for one seed."""
    n = len(differences)
    if n < 2:
        return -np.inf, np.inf
    half = stdtrit(n - 1, (1 + confidence) / 2) * differences.std(ddof=1) / np.sqrt(n)
    return float(differences.mean() - half), float(differences.mean() + half)


def smallest_difference(sd: float, n: int, paired: bool = True) -> float:
    """Smallest true difference of two means that Student's t finds with POWER at LEVEL.

    `sd`: of the n paired differences or, unpaired, of the n values on either side, in their unit.
    Infinite for n = 1. Exact but for a test that finds the opposite sign.
    """
    if n < 2:
        return np.inf
    freedom = n - 1 if paired else 2 * n - 2
    shift = nctdtrinc(freedom, 1 - POWER, stdtrit(freedom, 1 - LEVEL / 2))
    return float(shift * sd * np.sqrt((1 if paired else 2) / n))


def seeds_needed(sd: float, difference: float, paired: bool = True) -> int | None:
    """Fewest seeds (on either side, unpaired) that find a `difference`; None for over MOST_SEEDS.

    See `smallest_difference`; `difference` in the unit of `sd`, of either sign.
    """

    def enough(n: int) -> bool:
        return smallest_difference(sd, n, paired) <= abs(difference)

    found = bisect_left(range(MOST_SEEDS + 1), True, lo=2, key=enough)
    return found if found <= MOST_SEEDS else None


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


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Rank correlation of two arrays of any one shape; 0 where one of them is constant.

    nan where a value is not finite: infinities have ranks, but are no prediction.
    """
    from scipy.stats import rankdata  # half a second, which the callers of the others do not need

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
    statistic: Callable[..., float],
    *arrays_RT: np.ndarray,
    seed: np.random.Generator,
    draws: int = 1000,
) -> tuple[float, float]:
    """Central 95 % interval of `statistic(*arrays)` when whole rollouts are drawn anew."""
    rollouts = len(arrays_RT[0])
    values = []
    for _ in range(draws):
        rows = seed.integers(0, rollouts, rollouts)
        values.append(statistic(*(a[rows] for a in arrays_RT)))
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def tokens_to_reach(tokens_P: np.ndarray, loss_P: np.ndarray, target: float) -> float | None:
    """Training tokens after which the loss is first at most `target`; None where it never is.

    The curve is taken as straight between its points; losses in nats, lower is better.
    """
    below = np.flatnonzero(loss_P <= target)
    if not len(below):
        return None
    here = int(below[0])
    if here == 0:
        return float(tokens_P[0])
    before, after = loss_P[here - 1], loss_P[here]
    share = (before - target) / (before - after)
    return float(tokens_P[here - 1] + share * (tokens_P[here] - tokens_P[here - 1]))
