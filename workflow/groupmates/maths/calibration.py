"""Whether predictions mean what they say: mean outcome per bin of predictions.

Legend: N predictions, R rollouts, B bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Calibration:
    """Per bin of equally many predictions, in their order: means, and an interval of the outcome's.

    `slope`: of the outcome on the prediction by least squares; 1 is calibrated, below 1 the
    predictions spread too far.
    """

    predicted_B: np.ndarray
    outcome_B: np.ndarray
    low_B: np.ndarray
    high_B: np.ndarray
    slope: float


def calibration(
    predicted_N: np.ndarray,
    outcome_N: np.ndarray,
    rollout_N: np.ndarray,
    bins: int,
    generator: np.random.Generator,
    draws: int = 1000,
) -> Calibration:
    """The interval: 95 % of bootstrap draws of whole rollouts, whose steps are not independent."""
    bins = min(bins, len(predicted_N))
    bin_N = np.empty(len(predicted_N), np.int64)
    bin_N[np.argsort(predicted_N, kind="stable")] = (
        np.arange(len(predicted_N)) * bins // len(predicted_N)
    )
    rollouts, of_rollout_N = np.unique(rollout_N, return_inverse=True)
    cell_N = of_rollout_N * bins + bin_N
    shape = len(rollouts), bins
    sum_RB = np.bincount(cell_N, outcome_N, minlength=shape[0] * bins).reshape(shape)
    count_RB = np.bincount(cell_N, minlength=shape[0] * bins).reshape(shape)
    times_DR = generator.multinomial(
        len(rollouts), np.full(len(rollouts), 1 / len(rollouts)), draws
    )
    count_DB = times_DR @ count_RB
    drawn_DB = np.where(count_DB > 0, times_DR @ sum_RB / np.maximum(count_DB, 1), np.nan)
    low_B, high_B = np.nanquantile(drawn_DB, [0.025, 0.975], axis=0)
    spread = predicted_N - predicted_N.mean()
    return Calibration(
        np.bincount(bin_N, predicted_N) / np.bincount(bin_N),
        sum_RB.sum(0) / count_RB.sum(0),
        low_B,
        high_B,
        float(spread @ outcome_N / (spread @ spread)) if spread.any() else 0.0,
    )
