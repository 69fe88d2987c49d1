"""SemDeDup (arXiv 2303.09540): near-duplicates within clusters are dropped, the rest is drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.maths.near_duplicates import near_duplicates
from groupmates.maths.randomness import uniforms
from groupmates.maths.relation import on_grid
from groupmates.progress import Progress, note
from groupmates.selectors.order import read_members, without_groups
from groupmates.settings.selectors import SemDedup


def order(
    settings: SemDedup.Order,
    *,
    score: list[Path],
    cluster: list[Path],
    centroids: Path,
    semantic: list[Path] | None = None,
    partition: int,
    partitions: int,
    output: Path,
) -> None:
    """Order what is left of the clusters c with c % partitions == partition by a hash of the id.

    `semantic`: the embeddings that clusters and centroids are of, where those are not in `score`.
    """
    members = read_members(score, cluster, partition, partitions, semantic=semantic or None)
    centre_KD = on_grid(store.read_centroids(centroids))
    if centre_KD.shape[1] != members.emb_ND.shape[1]:
        expected = f"centroids of {members.emb_ND.shape[1]} dimensions, as the embeddings"
        raise store.damaged(centroids, expected, f"{centre_KD.shape[1]} dimensions")
    progress = Progress(
        f"near-duplicates {partition + 1}/{partitions}", len(members.row_N), "documents"
    )
    kept_N = np.ones(len(members.row_N), bool)
    for here in members.by_cluster():
        centre_D = centre_KD[members.cluster_N[here.start]]
        kept_N[here] = ~near_duplicates(
            on_grid(members.emb_ND[here]), centre_D, settings.semdedup.threshold
        )
        progress.advance(here.stop - here.start)
    progress.finish()
    note("semdedup", f"{(~kept_N).sum():,} of {len(kept_N):,} documents are near-duplicates")
    kept = members.in_pool(kept_N)
    shard_N, row_N = members.shard_N[kept], members.row_N[kept]
    key_N = np.empty(len(kept))
    for shard, path in enumerate(score):
        mine = shard_N == shard
        if mine.any():
            ids = store.read_column(path, "score", "doc_id").take(row_N[mine])
            key_N[mine] = uniforms(settings.seed, "select", ids.to_pylist())
    provenance = Provenance.of(
        "select", settings, score=score, cluster=cluster, centroids=centroids, semantic=semantic
    ).also(partition=partition, partitions=partitions)
    store.write_table(output, "order", provenance, without_groups(shard_N, key_N, row_N))
