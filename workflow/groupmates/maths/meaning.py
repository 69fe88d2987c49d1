"""Hidden states as embeddings of meaning: whitened and of unit length.

Legend: N documents, F hidden size, D embedding size. Hidden states point one way whatever the text.
Off their mean a few directions hold most of the variance. So cosines tell kinds of text apart, and
nothing else. With the same variance in every direction (arXiv 2103.15316) they tell a near-duplicate
from a document of the same kind.
"""

from __future__ import annotations

import numpy as np

BLOCK = 4096  # documents that are held in float64 at once


def whitening(hidden_NF: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean [F]; the leading principal directions [F, D], D = min(size, F), each divided by the
    standard deviation along it; the share of the variance that lies in them. float64.

    Variances are shrunk towards their mean as far as N documents leave them in doubt (oracle
    approximating shrinkage, Chen et al. 2010): small ones are underestimated.
    """
    mean_F = hidden_NF.mean(axis=0, dtype=np.float64)
    covariance_FF = np.zeros((len(mean_F), len(mean_F)))
    for start in range(0, len(hidden_NF), BLOCK):
        centred = hidden_NF[start : start + BLOCK] - mean_F
        covariance_FF += centred.T @ centred
    variance_F, axes_FF = np.linalg.eigh(covariance_FF / len(hidden_NF))  # ascending
    variance_F, axes_FF = np.maximum(variance_F, 0)[::-1], axes_FF[:, ::-1]
    total = float(variance_F.sum())
    share = float(variance_F[:size].sum()) / total if total > 0 else 1.0
    shrunk_F = shrunk(variance_F, len(hidden_NF))[:size]
    return mean_F, axes_FF[:, :size] / np.sqrt(np.where(shrunk_F > 0, shrunk_F, 1.0)), share


def shrunk(variance_F: np.ndarray, documents: int) -> np.ndarray:
    """Variances along principal directions, moved towards their mean (eq. 23 of Chen et al. 2010)."""
    size, total, square = len(variance_F), variance_F.sum(), (variance_F**2).sum()
    excess = (documents + 1 - 2 / size) * (square - total**2 / size)
    doubt = (1 - 2 / size) * square + total**2
    weight = 1.0 if doubt >= excess else doubt / excess
    return (1 - weight) * variance_F + weight * total / size


def embedded(hidden_NF: np.ndarray, mean_F: np.ndarray, axes_FD: np.ndarray) -> np.ndarray:
    """(h - mean) axes, scaled to unit length: float32 [N, D]; all zeros where h is the mean."""
    emb_ND = (hidden_NF - mean_F) @ axes_FD
    length_N1 = np.linalg.norm(emb_ND, axis=1, keepdims=True)
    return (emb_ND / np.maximum(length_N1, 1e-12)).astype(np.float32)
