"""Documents scored by the ranks that target examples give them (BETR, arXiv 2507.12466, section 3.4).

Legend: N documents, M targets, D embedding size.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

TOGETHER = 64  # targets that are compared with all documents at once
# Similarities are multiples of this: what a batch does to a float's last digits changes no rank.
GRID = 2.0**-14


def target_scores(
    emb_ND: np.ndarray, target_MD: np.ndarray, combine: Literal["max", "mean"]
) -> np.ndarray:
    """The maximum, or the mean, over targets of log2(1 / rank): float64 [N], at most 0.

    HIGHER is better. A target gives rank 1 to the document of highest similarity, the product of two
    rows of unit length. Documents of equal similarity share the best of their ranks.
    """
    total_N = np.full(len(emb_ND), -np.inf if combine == "max" else 0.0)
    for start in range(0, len(target_MD), TOGETHER):
        similarity_NM = np.round(emb_ND @ target_MD[start : start + TOGETHER].T / GRID)
        for similarity_N in similarity_NM.T:
            value_N = -np.log2(ranks(similarity_N))
            total_N = np.maximum(total_N, value_N) if combine == "max" else total_N + value_N
    return total_N if combine == "max" else total_N / len(target_MD)


def ranks(similarity_N: np.ndarray) -> np.ndarray:
    """1 + the number of documents that are more similar: int64 [N]."""
    ascending_N = np.sort(similarity_N)
    found: np.ndarray = 1 + len(ascending_N) - np.searchsorted(ascending_N, similarity_N, "right")
    return found
