"""Greedy group selection within clusters (method section 6), in the order of predicted influence."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.artefacts.store import Provenance, read_folder_json, write_table
from groupmates.maths.greedy import gains, greedy_order
from groupmates.maths.quota import marginal_key, proportional_key
from groupmates.maths.relation import NONE, Relation
from groupmates.progress import Progress, note
from groupmates.selectors.order import read_members
from groupmates.settings.selectors import GroupMates

LARGE_CLUSTER = 100_000  # two minutes of a core (tests/benchmarks/README.md)


def order(
    settings: GroupMates.Order,
    *,
    score: list[Path],
    cluster: list[Path],
    model: Path,
    scored_by: list[Path] | None = None,
    partition: int,
    partitions: int,
    output: Path,
) -> None:
    """Greedy group selection within the clusters c with c % partitions == partition.

    Clusters are ordered to their ends, whatever the budget: of what is ordered, `take` leaves out
    documents that cannot be taken.
    `scored_by`: the pool scored by another influence model, `model`, than the final one.
    """
    ours = settings.group_mates
    relation = Relation.from_json(read_folder_json(model, "fit", "relation.json"))
    relation = relation.used_as(ours.relation, ours.sharpness)
    members = read_members(score, cluster, partition, partitions, scored_by or None)
    documents = len(members.cluster_N)
    rank_N, key_N, theta_N = (np.zeros(documents, kind) for kind in (np.int32, float, float))
    label = f"greedy {partition + 1}/{partitions}"
    largest = int(np.bincount(members.cluster_N).max(initial=0))
    if relation != NONE and largest > LARGE_CLUSTER:
        note(
            label,
            f"a cluster has {largest:,} documents. Its time grows with their square, from some "
            f"two minutes at {LARGE_CLUSTER:,}; a larger cluster.clusters parts it",
        )
    progress = Progress(label, documents, "documents")
    for here in members.by_cluster():
        size = here.stop - here.start
        influence = gains(members.influence_N[here], ours.sign, members.maximum)
        picks, theta = greedy_order(influence, members.emb_ND[here], relation)
        at = here.start + picks
        rank_N[at] = np.arange(size)
        key_N[at] = proportional_key(size) if ours.quota == "proportional" else marginal_key(theta)
        theta_N[at] = theta
        progress.advance(size)
    progress.finish()
    provenance = Provenance.of(
        "select", settings, score=score, cluster=cluster, model=model, scored_by=scored_by
    ).also(partition=partition, partitions=partitions)
    columns = {
        "shard": members.shard_N,
        "row": members.row_N,
        "rank": rank_N,
        "key": key_N,
        "group_influence": theta_N,
    }
    in_pool = members.pool_order()
    write_table(output, "order", provenance, {name: v[in_pool] for name, v in columns.items()})
