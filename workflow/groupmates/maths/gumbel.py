"""Drawing documents by influence: Gumbel-top-k (MATES, arXiv 2406.06046, section 3.3)."""

from __future__ import annotations

import numpy as np

SMALLEST = 2.0**-64  # of a uniform number: its Gumbel variable must be finite


def gumbel_keys(standard_N: np.ndarray, uniform_N: np.ndarray, temperature: float) -> np.ndarray:
    """Sort keys float64 [N], smallest first, of standardised influences (lower is better).

    The k documents of largest -influence / temperature + Gumbel noise are k draws without
    replacement with probabilities proportional to exp(-influence / temperature). Times -temperature
    that is the key below, which at temperature 0 is the influence itself. `uniform_N` in [0, 1).
    """
    gumbel_N = -np.log(-np.log(np.clip(uniform_N, SMALLEST, 1 - 2.0**-53)))
    return standard_N - temperature * gumbel_N
