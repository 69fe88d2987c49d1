"""What a loss curve says: how soon a training reaches the loss that another one ends with."""

from __future__ import annotations

import numpy as np


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
