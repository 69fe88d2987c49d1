"""Spherical k-means: clusters whose similarity is the relationship weight (method section 5).

Legend: N documents, K clusters, D embedding size. All rows are float32 of unit length.

faiss searches; near ties, sums and similarities are exact (`relation.on_grid`). So centroids and
clusters do not depend on batches, threads or the device; those of `faiss.Kmeans` change with the
number of threads. Where faiss has a GPU, torch makes the exact parts on it as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import faiss
import numpy as np

from groupmates.maths.relation import on_grid

FLOAT32_DOUBT = 2e-4  # more than the difference of two float32 dot products can be wrong by
BLOCK = 4096  # documents that are held in float64 at once
SIMILARITIES = 1 << 24  # exact ones that are held at once


@dataclass(frozen=True)
class KMeans:
    centroids_KD: np.ndarray
    inertia: list[float]  # mean squared distance to the centroid at the start of each iteration
    sizes: list[int]  # documents of the sample per cluster


class Exact(Protocol):
    """What is computed exactly, in float64: by `ExactOnCpu`, or `kmeans_on_gpu.ExactOnDevice`."""

    def nearest(self, emb_ND: np.ndarray) -> np.ndarray:
        """Most similar centroid of each document, int [N]; of equal ones the lowest number."""

    def sums(self, emb_ND: np.ndarray, cluster_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum of each cluster's documents [K, D], similarity of each to its centroid [N]; float64."""


class ExactOnCpu:
    """`Exact` by NumPy."""

    def __init__(self, centroids_KD: np.ndarray) -> None:
        self._grid_KD = on_grid(centroids_KD)

    def nearest(self, emb_ND: np.ndarray) -> np.ndarray:
        found_N = np.empty(len(emb_ND), np.int64)
        step = max(1, SIMILARITIES // len(self._grid_KD))
        for start in range(0, len(emb_ND), step):
            rows = slice(start, start + step)
            found_N[rows] = (on_grid(emb_ND[rows]) @ self._grid_KD.T).argmax(axis=1)
        return found_N

    def sums(self, emb_ND: np.ndarray, cluster_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sum_KD, similarity_N = np.zeros(self._grid_KD.shape), np.empty(len(emb_ND))
        for start in range(0, len(emb_ND), BLOCK):
            block = slice(start, start + BLOCK)
            by_cluster = np.argsort(cluster_N[block], kind="stable")
            cluster = cluster_N[block][by_cluster]
            first = np.flatnonzero(np.diff(cluster, prepend=-1))
            grid = on_grid(emb_ND[block])
            sum_KD[cluster[first]] += np.add.reduceat(grid[by_cluster], first, axis=0)
            similarity_N[block] = np.einsum("nd,nd->n", grid, self._grid_KD[cluster_N[block]])
        return sum_KD, similarity_N


class Assignment:
    """The most similar centroid of each document: exact, of equal ones the lowest number.

    faiss finds the two best in float32; where they are too close to tell, the similarities to all
    centroids are computed exactly.
    """

    def __init__(self, centroids_KD: np.ndarray) -> None:
        self._index: Any = faiss.IndexFlatIP(centroids_KD.shape[1])
        self._index.add(np.ascontiguousarray(centroids_KD, np.float32))
        if gpus():
            self._index = faiss.index_cpu_to_all_gpus(self._index)
        self._exact = exact(centroids_KD)

    def __call__(self, emb_ND: np.ndarray) -> np.ndarray:
        """Cluster of each document, int32 [N]."""
        best = min(2, self._index.ntotal)
        similarity_N2, found_N2 = self._index.search(np.ascontiguousarray(emb_ND), best)
        cluster_N = found_N2[:, 0].astype(np.int32)
        close = np.flatnonzero(similarity_N2[:, 0] - similarity_N2[:, -1] < FLOAT32_DOUBT)
        if len(close):
            cluster_N[close] = self._exact.nearest(emb_ND[close])
        return cluster_N

    def sums(self, emb_ND: np.ndarray, cluster_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Exact.sums`."""
        return self._exact.sums(emb_ND, cluster_N)


def gpus() -> int:
    """GPUs that this build of faiss can use; a CPU build may not know the question."""
    return int(getattr(faiss, "get_num_gpus", lambda: 0)())


def exact(centroids_KD: np.ndarray) -> Exact:
    """On the device where faiss searches."""
    if gpus():  # only then is torch imported, which takes seconds
        from groupmates.maths.kmeans_on_gpu import ExactOnDevice, gpu

        if (device := gpu()) is not None:
            return ExactOnDevice(centroids_KD, device)
    return ExactOnCpu(centroids_KD)


def spherical_kmeans(
    emb_ND: np.ndarray,
    clusters: int,
    iterations: int,
    seed: int,
    after_each: Callable[[], object] = lambda: None,
) -> KMeans:
    """Fit unit-length centroids, starting from `clusters` of the documents drawn by `seed`.

    Ends early when nothing changes any more. A cluster without documents, or whose documents cancel
    out, starts anew from the document that its own centroid describes worst. `after_each` is called
    after each iteration.
    """
    assert 0 < clusters <= len(emb_ND)
    drawn = np.random.default_rng(seed).choice(len(emb_ND), clusters, replace=False)
    centroids_KD = emb_ND[np.sort(drawn)]
    inertia: list[float] = []
    for _ in range(iterations):
        assign = Assignment(centroids_KD)
        sum_KD, similarity_N = assign.sums(emb_ND, assign(emb_ND))
        inertia.append(float(2 - 2 * similarity_N.mean()))
        before_KD, centroids_KD = centroids_KD, directions(sum_KD, emb_ND, similarity_N)
        after_each()
        if np.array_equal(before_KD, centroids_KD):
            break
    sizes = np.bincount(Assignment(centroids_KD)(emb_ND), minlength=clusters)
    return KMeans(centroids_KD, inertia, sizes.tolist())


def directions(sum_KD: np.ndarray, emb_ND: np.ndarray, similarity_N: np.ndarray) -> np.ndarray:
    """Sums at unit length, float32; those without become the worst described documents."""
    length_K = np.linalg.norm(sum_KD, axis=1)
    lost = np.flatnonzero(length_K < 1e-6)
    centroids_KD = (sum_KD / np.maximum(length_K, 1e-6)[:, None]).astype(np.float32)
    centroids_KD[lost] = emb_ND[np.argsort(similarity_N, kind="stable")[: len(lost)]]
    return centroids_KD
