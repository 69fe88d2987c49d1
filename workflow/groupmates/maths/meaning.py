"""Hidden states as embeddings of meaning: centred, on their leading directions, of unit length.

Legend: N documents, F hidden size, D embedding size. Hidden states point one way whatever the text;
off their mean, cosines tell documents apart.
"""

from __future__ import annotations

import numpy as np

BLOCK = 4096  # documents that are held in float64 at once


def directions(hidden_NF: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean [F] and leading principal directions [F, D], D = min(size, F), as orthonormal columns;
    the share of the variance that lies in them. float64.
    """
    mean_F = hidden_NF.mean(axis=0, dtype=np.float64)
    covariance_FF = np.zeros((len(mean_F), len(mean_F)))
    for start in range(0, len(hidden_NF), BLOCK):
        centred = hidden_NF[start : start + BLOCK] - mean_F
        covariance_FF += centred.T @ centred
    variance_F, axes_FF = np.linalg.eigh(covariance_FF)  # ascending
    total = float(variance_F.sum())
    share = float(variance_F[::-1][:size].sum()) / total if total > 0 else 1.0
    return mean_F, axes_FF[:, ::-1][:, :size], share


def embedded(hidden_NF: np.ndarray, mean_F: np.ndarray, axes_FD: np.ndarray) -> np.ndarray:
    """(h - mean) axes, scaled to unit length: float32 [N, D]; all zeros where h is the mean."""
    emb_ND = (hidden_NF - mean_F) @ axes_FD
    length_N1 = np.linalg.norm(emb_ND, axis=1, keepdims=True)
    found: np.ndarray = (emb_ND / np.maximum(length_N1, 1e-12)).astype(np.float32)
    return found
