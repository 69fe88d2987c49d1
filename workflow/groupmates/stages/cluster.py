"""Clusters of embeddings: centroids fitted on a sample, then every document assigned.

`score` are score files, whose clusters are influence-aware, or those of semantic embeddings.
Neither the number of shards nor of row groups changes a centroid or a cluster.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.errors import UserError
from groupmates.maths.kmeans import Assignment, spherical_kmeans
from groupmates.maths.randomness import hash64, priorities
from groupmates.progress import Progress, note
from groupmates.settings.config import Cluster
from groupmates.settings.per_stage import CentroidSettings, ClusterSettings

LONGEST = 1 + 1e-3  # embeddings are normalised in float32 or bfloat16
CANDIDATE = np.dtype([("hash", np.uint64), ("file", np.int32), ("row", np.int64)])


def run_centroids(settings: CentroidSettings, *, score: list[Path], output: Path) -> None:
    """Fit the centroids on a sample of the pool; memory: its embeddings and the ids of a file."""
    kind = store.embedded_as(score[0])
    documents = sum(store.open_table(path, kind).metadata.num_rows for path in score)
    clusters = number_of_clusters(settings.cluster, documents)
    sampled = min(documents, settings.cluster.sample_per_cluster * clusters)
    note("cluster", f"{clusters:,} clusters of {documents:,} documents, fitted on {sampled:,}")
    sample_ND = read_sample(kind, draw(settings.seed, kind, score, sampled))
    progress = Progress("cluster fit", settings.cluster.iterations, "iterations")
    fitted = spherical_kmeans(
        sample_ND,
        clusters,
        settings.cluster.iterations,
        hash64(settings.seed, "cluster", "centroids"),
        after_each=progress.advance,
    )
    progress.total = progress.done  # fewer where nothing changed any more
    progress.finish()
    inertia, sizes = fitted.inertia, fitted.sizes
    note(
        "cluster",
        f"mean squared distance {inertia[0]:.4f} -> {inertia[-1]:.4f} after {len(inertia)} "
        f"iterations; {sizes.count(0):,} clusters without a document of the sample, the largest "
        f"has {max(sizes):,}",
    )
    with store.replacing(output) as temporary, temporary.open("wb") as file:
        np.save(file, fitted.centroids_KD)
    counts = {"clusters": clusters, "documents": documents, "sampled": sampled}
    body = counts | {"inertia": inertia, "sizes": sizes, "sha256": store.digest(output)}
    provenance = Provenance.of("cluster", settings, score=score)
    store.write_json(output.with_suffix(".json"), "centroids", provenance, body)


def draw(seed: int, kind: str, score: list[Path], sampled: int) -> dict[Path, np.ndarray]:
    """Ascending rows of each file: the `sampled` documents whose ids have the smallest hashes."""
    drawn = np.empty(0, CANDIDATE)
    largest = np.uint64(2**64 - 1)
    for file, path in enumerate(score):
        hash_N = priorities(seed, "cluster", store.read_column(path, kind, "doc_id").to_pylist())
        row = np.flatnonzero(hash_N <= largest)
        found = np.empty(len(row), CANDIDATE)
        found["hash"], found["file"], found["row"] = hash_N[row], file, row
        drawn = np.concatenate([drawn, found])
        if len(drawn) > sampled:
            largest = np.partition(drawn["hash"], sampled - 1)[sampled - 1]
            drawn = drawn[drawn["hash"] <= largest]
    ends = np.searchsorted(drawn["file"], np.arange(len(score)), side="right")
    return dict(zip(score, np.split(drawn["row"], ends[:-1]), strict=True))


def read_sample(kind: str, rows_of: dict[Path, np.ndarray]) -> np.ndarray:
    """Embeddings of these rows of every file, in pool order, row group by row group."""
    size = store.embedding_size(next(iter(rows_of)))
    sample_ND = np.empty((sum(map(len, rows_of.values())), size), np.float32)
    progress, filled = Progress("cluster sample", len(sample_ND), "documents"), 0
    for path, rows in rows_of.items():
        start = 0
        for emb_ND in store.embeddings(path, kind):
            drawn = rows[slice(*np.searchsorted(rows, [start, start + len(emb_ND)]))]
            drawn_ND = checked(emb_ND[drawn - start], path, kind, drawn, size)
            sample_ND[filled : filled + len(drawn)] = drawn_ND
            start, filled = start + len(emb_ND), filled + len(drawn)
            progress.advance(len(drawn))
    progress.finish()
    return sample_ND


def number_of_clusters(cluster: Cluster, documents: int) -> int:
    """As set, or as many as have `target_size` documents each; never more than documents."""
    clusters = cluster.clusters_of(documents)
    if documents < max(clusters, 1):
        raise UserError(
            expected=f"at least {max(clusters, 1):,} documents, one per cluster",
            found=f"{documents:,} documents in the pool",
            where="cluster.clusters",
            todo="set fewer clusters, or clusters: null and a target_size",
        )
    return clusters


def run_assign(settings: ClusterSettings, *, score: Path, centroids: Path, output: Path) -> None:
    """Assign every document of a shard to its most similar centroid, row group by row group."""
    centroids_KD = store.read_centroids(centroids)
    assign = Assignment(centroids_KD)
    provenance = Provenance.of("cluster", settings, score=score, centroids=centroids)
    kind = store.embedded_as(score)
    rows = store.open_table(score, kind).metadata.num_rows
    progress = Progress(f"cluster {score.stem}", rows, "documents")
    tables = store.row_groups(score, kind, ["doc_id"])
    with store.table_writer(output, "cluster", provenance) as writer:
        for table, emb_ND in zip(tables, store.embeddings(score, kind), strict=True):
            row_N = np.arange(progress.done, progress.done + len(table))
            checked(emb_ND, score, kind, row_N, centroids_KD.shape[1])
            writer.write({"doc_id": table["doc_id"], "cluster": assign(emb_ND)})
            progress.advance(len(table))
    progress.finish()


def checked(emb_ND: np.ndarray, path: Path, kind: str, row_N: np.ndarray, size: int) -> np.ndarray:
    """Embeddings [N, size] of these rows of a table, all finite and of at most unit length.

    An average of unit-length chunks is shorter than one of them; nothing is of length 0.
    """
    if emb_ND.shape[1] != size:
        found = f"size {emb_ND.shape[1]}, of another model"
        raise store.damaged(path, f"embeddings of size {size}, as in the other files", found)
    length_N = np.linalg.norm(emb_ND, axis=1)
    wrong = np.flatnonzero(~((length_N > 0) & (length_N <= LONGEST)))
    if len(wrong):
        doc_id = store.read_column(path, kind, "doc_id")[int(row_N[wrong[0]])].as_py()
        raise store.damaged(
            path,
            "finite embeddings of at most length 1",
            f"length {length_N[wrong[0]]} of {doc_id!r}, one of {len(wrong):,} such",
            "; if it recurs, the model is broken: look at fit/final/metrics.json",
        )
    return emb_ND
