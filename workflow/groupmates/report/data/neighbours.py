"""What is near what in the space of embeddings, streamed row group by row group.

Memory: one row group and the embeddings of the documents that are asked for.
Legend: N rows of a row group, P documents asked for, K clusters, D embedding size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groupmates.artefacts.store import embedded_as, embeddings, read_table
from groupmates.progress import Progress
from groupmates.report.data.survey import Documents


@dataclass(frozen=True)
class Nearest:
    """Of each document asked for, the nearest selected one in its cluster; NaN and -1 if none is."""

    cosine_P: np.ndarray
    shard_P: np.ndarray
    row_P: np.ndarray

    def place(self, p: int) -> tuple[int, int]:
        """(shard, row) of the nearest to document `p`."""
        return int(self.shard_P[p]), int(self.row_P[p])


def embedded(score: list[Path], label: str) -> Iterator[tuple[int, int, np.ndarray]]:
    """(shard, its first row, embeddings [N, D]) of every row group of the pool.

    `score` are score files, here and below, or those of semantic embeddings.
    """
    progress = Progress(f"report {label}", len(score), "score files")
    for shard, path in enumerate(score):
        first = 0
        for emb_ND in embeddings(path, embedded_as(path)):
            yield shard, first, emb_ND
            first += len(emb_ND)
        progress.advance()
    progress.finish()


def clustered(
    score: list[Path], cluster: list[Path], among_SN: list[np.ndarray], label: str
) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """As `embedded`, and the cluster of each document; -1 outside `among_SN`, packed bits per shard."""
    of_shard, cluster_N = -1, np.zeros(0, np.int32)
    for shard, first, emb_ND in embedded(score, label):
        if shard != of_shard:
            of_shard = shard
            cluster_N = read_table(cluster[shard], "cluster", ["cluster"])["cluster"].to_numpy()
            among_N = np.unpackbits(among_SN[shard], count=len(cluster_N)).astype(bool)
            cluster_N = np.where(among_N, cluster_N, -1)
        yield shard, first, emb_ND, cluster_N[first : first + len(emb_ND)]


def embeddings_of(score: list[Path], documents: Documents) -> np.ndarray:
    """The embeddings of chosen documents, float32 [P, D], in their order."""
    shard_P, row_P = documents["shard"].to_numpy(), documents["row"].to_numpy()
    order = np.lexsort((row_P, shard_P))
    found: list[np.ndarray] = []
    size = 0
    for shard, first, emb_ND in embedded(score, "embeddings"):
        size = emb_ND.shape[1]
        of_shard = order[slice(*np.searchsorted(shard_P[order], [shard, shard + 1]))]
        low, high = np.searchsorted(row_P[of_shard], [first, first + len(emb_ND)])
        found.append(emb_ND[row_P[of_shard[low:high]] - first])
    emb_PD = np.empty((len(order), size), np.float32)
    emb_PD[order] = np.concatenate(found)
    return emb_PD


def typical(
    score: list[Path],
    cluster: list[Path],
    centroids_KD: np.ndarray,
    clusters: list[int],
    allowed_SN: list[np.ndarray],
    count: int,
) -> dict[int, list[tuple[int, int]]]:
    """(shard, row) of the documents nearest to the centroid of each of `clusters`, nearest first.

    `allowed_SN`: packed bits per shard, the documents to choose from.
    """
    best: dict[int, list[tuple[float, int, int]]] = {c: [] for c in clusters}
    label = "typical documents"
    for shard, first, emb_ND, cluster_N in clustered(score, cluster, allowed_SN, label):
        for c in clusters:
            rows = np.flatnonzero(cluster_N == c)
            cosine = emb_ND[rows] @ centroids_KD[c]
            top = rows[np.lexsort((rows, -cosine))[:count]]
            near = emb_ND[top] @ centroids_KD[c]
            best[c] += [
                (-round(float(s), 5), shard, first + int(r)) for s, r in zip(near, top, strict=True)
            ]
            best[c] = sorted(best[c])[:count]
    return {c: [(shard, row) for _, shard, row in found] for c, found in best.items()}


def nearest_selected(
    score: list[Path],
    cluster: list[Path],
    kept_SN: list[np.ndarray],
    documents: Documents,
    emb_PD: np.ndarray,
) -> Nearest:
    """The selected document of highest cosine to each of `documents`, other than itself."""
    cluster_P = documents["cluster"].to_numpy()
    shard_P, row_P = documents["shard"].to_numpy(), documents["row"].to_numpy()
    asked_C = {int(c): np.flatnonzero(cluster_P == c) for c in np.unique(cluster_P)}
    nowhere = np.full((2, len(cluster_P)), -1)
    found = Nearest(np.full(len(cluster_P), -np.inf), *nowhere)
    for shard, first, emb_ND, cluster_N in clustered(score, cluster, kept_SN, "neighbours"):
        rows = np.argsort(cluster_N, kind="stable")
        present, starts = np.unique(cluster_N[rows], return_index=True)
        for c, near in zip(present.tolist(), np.split(rows, starts[1:]), strict=True):
            if c not in asked_C:
                continue
            asked = asked_C[c]
            cosine = emb_PD[asked].astype(np.float64) @ emb_ND[near].T.astype(np.float64)
            itself = (shard_P[asked, None] == shard) & (row_P[asked, None] == first + near[None])
            cosine[itself] = -np.inf
            best = cosine.argmax(1)
            value = cosine[np.arange(len(asked)), best]
            closer = value > found.cosine_P[asked]
            found.cosine_P[asked[closer]] = value[closer]
            found.shard_P[asked[closer]] = shard
            found.row_P[asked[closer]] = first + near[best[closer]]
    found.cosine_P[np.isinf(found.cosine_P)] = np.nan
    return found
