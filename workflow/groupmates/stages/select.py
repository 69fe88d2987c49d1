"""Select documents: a method writes its order of preference, then the budget is taken from it.

A method is a function that writes an "order" artefact: for every document that it might give, the
key by which the pool is sorted. `run_group_mates` and `run_random` are methods; `run_take` serves
them all. A document is known by (shard, row): number of its score file, position in it.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groupmates.artefacts import ARTEFACTS, DOCUMENT
from groupmates.config import GroupMatesSettings, RandomSettings, TakeSettings
from groupmates.errors import UserError
from groupmates.maths.greedy import gains, greedy_order
from groupmates.maths.quota import (
    documents_of_ratio,
    marginal_key,
    proportional_key,
    proportional_quota,
    take,
)
from groupmates.maths.randomness import priorities
from groupmates.maths.relation import Relation
from groupmates.progress import Progress, note
from groupmates.store import (
    KEY,
    Provenance,
    digests,
    embeddings,
    open_table,
    read_folder_json,
    read_table,
    row_groups,
    table_writer,
    write_table,
)


def run_group_mates(
    settings: GroupMatesSettings,
    *,
    score: list[Path],
    cluster: list[Path],
    model: Path,
    partition: int,
    partitions: int,
    output: Path,
) -> None:
    """Greedy group selection within the clusters c with c % partitions == partition.

    Memory: the embeddings of these clusters and one row group. Every partition reads every
    shard, so use no more partitions than memory asks for.
    """
    relation = Relation.from_json(read_folder_json(model, "fit", "relation.json"))
    clusters = [read_clusters(s, c) for s, c in zip(score, cluster, strict=True)]
    documents = sum(map(len, clusters))
    rows = [np.flatnonzero(c % partitions == partition) for c in clusters]
    cluster_N = np.concatenate([c[r] for c, r in zip(clusters, rows, strict=True)])
    by_cluster = np.argsort(cluster_N, kind="stable")  # pool order within a cluster
    influence_N, emb_ND, maximum = read_members(score, rows, by_cluster)

    budget, quota = settings.budget, settings.group_mates.quota
    picked_N = np.zeros(len(cluster_N), bool)
    rank_N, key_N, theta_N = (np.zeros(len(cluster_N), kind) for kind in (np.int32, float, float))
    bounds = np.flatnonzero(np.diff(cluster_N[by_cluster], prepend=-1, append=-1))
    progress = Progress(f"greedy {partition + 1}/{partitions}", len(cluster_N), "documents")
    for start, end in pairwise(bounds):
        stop = size = int(end - start)
        if quota == "proportional" and budget.ratio is not None:
            stop = proportional_quota(documents_of_ratio(budget.ratio, documents), size, documents)
        influence = gains(influence_N[start:end], settings.group_mates.sign, maximum)
        picks, theta = greedy_order(influence, emb_ND[start:end], relation, stop)
        members = by_cluster[start + picks]
        picked_N[members] = True
        rank_N[members] = np.arange(stop)
        key_N[members] = (
            proportional_key(stop, size) if quota == "proportional" else marginal_key(theta)
        )
        theta_N[members] = theta
        progress.advance(size)
    progress.finish()

    order = {
        "shard": np.repeat(np.arange(len(rows)), [len(r) for r in rows]),
        "row": np.concatenate(rows),
        "rank": rank_N,
        "key": key_N,
        "group_influence": theta_N,
    }
    provenance = Provenance(
        "select",
        settings.model_dump(mode="json") | {"partition": partition, "partitions": partitions},
        digests(score=score, cluster=cluster, model=model),
    )
    write_table(output, "order", provenance, {name: v[picked_N] for name, v in order.items()})


def run_random(settings: RandomSettings, *, score: list[Path], output: Path) -> None:
    """Uniform over the pool: a document's key is a hash of its id."""
    provenance = Provenance("select", settings.model_dump(mode="json"), digests(score=score))
    progress = Progress("order random", sum(map(rows_of, score)), "documents")
    with table_writer(output, "order", provenance) as writer:
        for shard, path in enumerate(score):
            ids = read_table(path, "score", ["doc_id"])["doc_id"].to_pylist()
            writer.write(
                {
                    "shard": np.full(len(ids), shard),
                    "row": np.arange(len(ids)),
                    "rank": np.zeros(len(ids), np.int32),
                    "key": priorities(settings.seed, "select", ids) / 2.0**64,
                    "group_influence": np.full(len(ids), np.nan),
                }
            )
            progress.advance(len(ids))
    progress.finish()


def rows_of(score: Path) -> int:
    rows: int = open_table(score, "score").metadata.num_rows
    return rows


def run_take(
    settings: TakeSettings,
    *,
    method: str,
    orders: list[Path],
    score: list[Path],
    cluster: list[Path],
    output: list[Path],
) -> None:
    """Take a method's documents until the budget is met; one table of them per score shard.

    Removes what a selection from another pool left beside the tables.
    """
    progress = Progress(f"take {method}", sum(map(rows_of, score)), "documents")
    inputs = digests(orders=orders, score=score, cluster=cluster)
    n_tokens = [read_table(path, "score", ["n_tokens"])["n_tokens"].to_numpy() for path in score]
    offsets = np.cumsum([0, *map(len, n_tokens)])
    documents = int(offsets[-1])
    order = read_orders(orders, score, offsets)
    place_N = order["place"]  # position in the pool
    n_tokens_N = np.concatenate(n_tokens)[place_N]

    budget = settings.budget
    wanted = None if budget.ratio is None else documents_of_ratio(budget.ratio, documents)
    taken = take(order["key"], order["rank"], n_tokens_N, documents=wanted, tokens=budget.tokens)
    clusters = [read_clusters(s, c) for s, c in zip(score, cluster, strict=True)]
    rank = np.empty(len(place_N), np.int32)
    rank[taken] = rank_within(np.concatenate(clusters)[place_N[taken]])

    provenance = Provenance("select", settings.model_dump(mode="json") | {"method": method}, inputs)
    chosen = np.sort(taken)  # pool order
    ends = np.searchsorted(place_N[chosen], offsets)
    known = [*DOCUMENT, "n_tokens", "individual_influence"]
    for shard, path in enumerate(score):
        here = chosen[ends[shard] : ends[shard + 1]]
        row = place_N[here] - offsets[shard]
        table = read_table(path, "score", known).take(pa.array(row))
        columns: dict[str, Any] = {name: table[name] for name in known} | {
            "cluster": clusters[shard][row],
            "rank": rank[here],
            "group_influence": order["group_influence"][here],
        }
        write_table(output[shard], "select", provenance, columns)
        progress.advance(len(n_tokens[shard]))
    progress.finish()
    for path in set(output[0].parent.glob("shard-*.parquet")) - set(output):
        path.unlink()
    tokens, pool_tokens = int(n_tokens_N[taken].sum()), sum(int(t.sum()) for t in n_tokens)
    note(
        f"select {method}",
        f"{len(taken):,} of {documents:,} documents ({len(taken) / documents:.2%}), "
        f"{tokens:,} of {pool_tokens:,} tokens ({tokens / pool_tokens:.2%})",
    )


def rank_within(cluster_N: np.ndarray) -> np.ndarray:
    """How many documents before each one are of its cluster."""
    by_cluster = np.argsort(cluster_N, kind="stable")
    grouped = cluster_N[by_cluster]
    rank_N = np.empty(len(cluster_N), np.int32)
    rank_N[by_cluster] = np.arange(len(grouped)) - np.searchsorted(grouped, grouped)
    return rank_N


def read_clusters(score: Path, cluster: Path) -> np.ndarray:
    """Cluster of every document of a shard, int32 [rows], after comparing the documents' ids."""
    ids = read_table(score, "score", ["doc_id"])["doc_id"]
    table = read_table(cluster, "cluster")
    if not ids.equals(table["doc_id"]):
        raise UserError(
            expected=f"clusters of the {len(ids):,} documents of {score}, row by row",
            found=f"{len(table):,} rows of other documents or in another order",
            where=str(cluster),
            todo="delete the clusters of this shard and run snakemake again",
        )
    clusters: np.ndarray = table["cluster"].to_numpy()
    return clusters


def read_members(
    score: list[Path], rows: list[np.ndarray], by_cluster: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Influences and embeddings of these rows, in `by_cluster` order; the pool's maximum."""
    place_N = np.empty_like(by_cluster)
    place_N[by_cluster] = np.arange(len(by_cluster))
    size = open_table(score[0], "score").schema_arrow.field("embedding").type.list_size
    influence_N = np.empty(len(place_N), np.float32)
    emb_ND = np.empty((len(place_N), size), np.float32)
    maximum, filled = -np.inf, 0
    progress = Progress("greedy embeddings", sum(map(len, rows)), "rows")
    for path, wanted in zip(score, rows, strict=True):
        first = 0
        for table in row_groups(path, "score", ["individual_influence", "embedding"]):
            influence = table["individual_influence"].to_numpy()
            if not np.isfinite(influence).all():
                raise UserError(
                    expected="finite individual influences",
                    found=f"{(~np.isfinite(influence)).sum():,} that are not, after row {first:,}",
                    where=str(path),
                    todo="look at fit/final/metrics.json; delete this file, run snakemake again",
                )
            maximum = max(maximum, float(influence.max(initial=-np.inf)))
            low, high = np.searchsorted(wanted, [first, first + len(table)])
            to = place_N[filled + low : filled + high]
            influence_N[to] = influence[wanted[low:high] - first]
            emb_ND[to] = embeddings(table)[wanted[low:high] - first]
            first += len(table)
        filled += len(wanted)
        progress.advance(len(wanted))
    progress.finish()
    return influence_N, emb_ND, maximum


def read_orders(
    orders: list[Path], score: list[Path], offsets: np.ndarray
) -> dict[str, np.ndarray]:
    """The partitions of a method's order as one, in pool order; `place` is the position there."""
    made_from = digests(score=score)
    tables = [read_table(path, "order") for path in orders]
    for path, table in zip(orders, tables, strict=True):
        inputs = json.loads(table.schema.metadata[KEY])["inputs"]
        if {k: v for k, v in inputs.items() if k.startswith("score[")} != made_from:
            raise UserError(
                expected="an order of the documents of these score files, in this sequence",
                found="one that was made from other files or in another sequence",
                where=str(path),
                todo="delete the order and run snakemake again",
            )
    table = pa.concat_tables(tables)
    order = {name: table[name].to_numpy() for name in ARTEFACTS["order"].columns or ()}
    place_N = offsets[order.pop("shard")] + order.pop("row")
    in_pool = np.argsort(place_N, kind="stable")
    order = {name: values[in_pool] for name, values in order.items()} | {"place": place_N[in_pool]}
    twice = np.flatnonzero(np.diff(order["place"]) == 0)
    if len(twice):
        place = order["place"][twice[0]]
        shard = int(np.searchsorted(offsets, place, side="right")) - 1
        raise UserError(
            expected="every document at most once in a method's order",
            found=f"row {place - offsets[shard]:,} of {score[shard]} twice",
            where=", ".join(map(str, orders)),
            todo="delete these orders and run snakemake again: they are of different partitionings",
        )
    return order
