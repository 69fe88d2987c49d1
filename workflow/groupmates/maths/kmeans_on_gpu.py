"""The exact parts of k-means on a GPU, where NumPy would keep it waiting.

Legend: as in `kmeans`. Values are multiples of 2**-20 (`relation.on_grid`), so float64 holds their sums
and products without rounding. The order in which a GPU adds them changes no bit: results are NumPy's.
"""

from __future__ import annotations

import numpy as np
import torch

from groupmates.maths.packing import KMEANS_DOCUMENTS, KMEANS_SIMILARITIES
from groupmates.maths.relation import step_apart

STEP_APART = step_apart(np.dtype(np.float64))


def gpu() -> torch.device | None:
    """The GPU that torch can use, if there is one."""
    return torch.device("cuda") if torch.cuda.is_available() else None


class ExactOnDevice:
    """`kmeans.Exact` by torch. `documents`, `similarities`: how many are held at once."""

    def __init__(
        self,
        centroids_KD: np.ndarray,
        device: torch.device,
        documents: int = KMEANS_DOCUMENTS,
        similarities: int = KMEANS_SIMILARITIES,
    ) -> None:
        self._device, self._documents = device, documents
        self._grid_KD = self._on_grid(centroids_KD)
        self._number_K = torch.arange(len(centroids_KD), dtype=torch.int32, device=device)
        self._compared = max(1, min(documents, similarities // len(centroids_KD)))

    def _on_grid(self, emb_ND: np.ndarray) -> torch.Tensor:
        """`relation.on_grid` in float64, made on the device."""
        # torch copies to a GPU what it has converted on the CPU: twice the bytes, unless in two steps.
        found = torch.from_numpy(np.ascontiguousarray(emb_ND)).to(self._device).double()
        return found.add_(STEP_APART).sub_(STEP_APART)

    def nearest(self, emb_ND: np.ndarray) -> np.ndarray:
        parts = []
        for start in range(0, len(emb_ND), self._compared):
            grid_ND = self._on_grid(emb_ND[start : start + self._compared])
            similarity_NK = grid_ND @ self._grid_KD.T
            highest_N1 = similarity_NK.amax(1, keepdim=True)
            # A GPU's argmax may name any of equal ones.
            last = len(self._number_K)
            equal_NK = torch.where(similarity_NK == highest_N1, self._number_K, last)
            parts.append(equal_NK.amin(1).cpu().numpy())
        return np.concatenate(parts)

    def sums(self, emb_ND: np.ndarray, cluster_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sum_KD = torch.zeros_like(self._grid_KD)
        similarity_N = np.empty(len(emb_ND))
        for start in range(0, len(emb_ND), self._documents):
            block = slice(start, start + self._documents)
            grid_ND = self._on_grid(emb_ND[block])
            cluster = torch.from_numpy(cluster_N[block]).to(self._device, torch.int64)
            sum_KD.index_add_(0, cluster, grid_ND)
            products_ND = self._grid_KD[cluster].mul_(grid_ND)
            similarity_N[block] = products_ND.sum(1).cpu().numpy()
        return sum_KD.cpu().numpy(), similarity_N
