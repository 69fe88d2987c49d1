"""Spherical k-means: clusters whose similarity is the relationship weight (method section 5).

Legend: N documents, K clusters, D embedding size. All rows are float32 of unit length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np

from groupmates.maths.relation import on_grid

FLOAT32_DOUBT = 2e-4  # more than the difference of two float32 dot products can be wrong by
BLOCK = 1024  # documents whose similarities to all centroids are computed exactly at once


@dataclass(frozen=True)
class KMeans:
    centroids_KD: np.ndarray
    inertia: list[float]  # mean squared distance to the centroid, before each iteration's update
    sizes: list[int]  # documents of the sample per cluster


def gpus() -> int:
    """GPUs that this build of faiss can use; a CPU build may not know the question."""
    return int(getattr(faiss, "get_num_gpus", lambda: 0)())


def spherical_kmeans(emb_ND: np.ndarray, clusters: int, iterations: int, seed: int) -> KMeans:
    """Fit `clusters` unit-length centroids; the same sample and seed give the same centroids.

    faiss fills a cluster that runs empty by splitting a large one. A centroid without direction
    (its documents cancel out) becomes the document that its own centroid describes worst.
    """
    assert 0 < clusters <= len(emb_ND)
    kmeans = faiss.Kmeans(
        emb_ND.shape[1],
        clusters,
        niter=iterations,
        spherical=True,
        seed=seed % 2**31,
        gpu=gpus() > 0,
        min_points_per_centroid=1,  # the caller chose the sample
        max_points_per_centroid=len(emb_ND),
    )
    kmeans.train(emb_ND)
    centroids_KD = with_direction(np.array(kmeans.centroids), emb_ND)
    sizes = np.bincount(Assignment(centroids_KD)(emb_ND), minlength=clusters)
    similarity = np.asarray(kmeans.obj, np.float64) / len(emb_ND)
    return KMeans(centroids_KD, (2 - 2 * similarity).tolist(), sizes.tolist())


def with_direction(centroids_KD: np.ndarray, emb_ND: np.ndarray) -> np.ndarray:
    """Centroids at unit length; those that have none become the worst described documents."""
    length_K = np.linalg.norm(centroids_KD, axis=1)
    lost = np.flatnonzero(~(length_K > 1e-6))
    if len(lost):
        index = faiss.IndexFlatIP(emb_ND.shape[1])
        index.add(np.delete(centroids_KD, lost, axis=0))
        similarity_N1, _ = index.search(emb_ND, 1)  # -inf-like where there is no centroid at all
        worst = np.argsort(similarity_N1[:, 0], kind="stable")[: len(lost)]
        centroids_KD[lost] = emb_ND[worst]
        length_K[lost] = np.linalg.norm(emb_ND[worst], axis=1)
    return (centroids_KD / length_K[:, None]).astype(np.float32)


class Assignment:
    """The most similar centroid of each document: exact, of equal ones the lowest number.

    faiss finds the two best in float32; where they are too close to tell, all similarities are
    computed exactly (`relation.on_grid`). So neither the batch nor the machine changes a cluster.
    """

    def __init__(self, centroids_KD: np.ndarray) -> None:
        self._index: Any = faiss.IndexFlatIP(centroids_KD.shape[1])
        self._index.add(np.ascontiguousarray(centroids_KD, np.float32))
        if gpus():
            self._index = faiss.index_cpu_to_all_gpus(self._index)
        self._grid_KD = on_grid(centroids_KD)

    def __call__(self, emb_ND: np.ndarray) -> np.ndarray:
        """Cluster of each document, int32 [N]."""
        best = min(2, len(self._grid_KD))
        similarity_N2, found_N2 = self._index.search(np.ascontiguousarray(emb_ND), best)
        cluster_N = found_N2[:, 0].astype(np.int32)
        close = np.flatnonzero(similarity_N2[:, 0] - similarity_N2[:, -1] < FLOAT32_DOUBT)
        for start in range(0, len(close), BLOCK):
            rows = close[start : start + BLOCK]
            cluster_N[rows] = (on_grid(emb_ND[rows]) @ self._grid_KD.T).argmax(axis=1)
        return cluster_N
