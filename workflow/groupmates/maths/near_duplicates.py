"""Which documents of a cluster SemDeDup drops (arXiv 2303.09540, algorithm 1)."""

from __future__ import annotations

import numpy as np

BLOCK = 256  # rows of the similarity matrix that are computed at once


def near_duplicates(grid_ND: np.ndarray, centre_D: np.ndarray, threshold: float) -> np.ndarray:
    """bool [N]: a document whose similarity to an earlier one is above `threshold`.

    Earlier means less similar to the centre of the cluster; of equal ones, first in the pool: of a
    group of near-duplicates the outermost is kept. Embeddings are those of `relation.on_grid`, so
    that exact copies are found whatever the order of summation. Memory: 8 bytes BLOCK N.
    """
    outermost = np.argsort(grid_ND @ centre_D, kind="stable")
    sorted_ND = grid_ND[outermost]
    dropped_N = np.zeros(len(sorted_ND), bool)
    for start in range(0, len(sorted_ND), BLOCK):
        rows = sorted_ND[start : start + BLOCK]
        similarity_BN = rows @ sorted_ND[: start + len(rows)].T
        earlier_BN = np.tri(len(rows), similarity_BN.shape[1], start - 1, dtype=bool)
        near_BN = (similarity_BN > threshold) & earlier_BN
        dropped_N[start : start + len(rows)] = near_BN.any(axis=1)
    found_N = np.empty_like(dropped_N)
    found_N[outermost] = dropped_N
    return found_N
