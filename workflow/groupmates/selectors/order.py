"""Orders: what a method writes, and what methods read of scores and clusters.

A method puts documents in an order of preference: an "order" artefact holds, for every document that
it might give, the key by which the pool is sorted. A document is known by (shard, row): number of its
score file, position in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import numpy as np

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance
from groupmates.maths import grouping
from groupmates.pool.damage import changed
from groupmates.pool.documents import Document, read_documents, rejects_of
from groupmates.pool.identity import identified
from groupmates.pool.listing import located
from groupmates.progress import Progress
from groupmates.settings.sections import BadRecords, PoolColumns

TOGETHER = 1000  # documents that are read and scored at once


@contextmanager
def preparing(output: Path, provenance: Provenance) -> Iterator[Path]:
    """A temporary folder that becomes what a selector has prepared, on success."""
    with store.replacing(output) as folder:
        folder.mkdir()
        store.write_folder_provenance(folder, "prepared", provenance)
        yield folder


def without_groups(
    shard: int | np.ndarray, key_N: np.ndarray, row_N: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Columns of an order of a method that looks at no group; of a whole shard without `row_N`."""
    documents = len(key_N)
    return {
        "shard": np.broadcast_to(shard, documents),
        "row": np.arange(documents) if row_N is None else row_N,
        "rank": np.zeros(documents, np.int32),
        "key": key_N,
        "group_influence": np.full(documents, np.nan),
    }


def documents_of_shard(
    score: Path, pool: list[str], columns: PoolColumns, bad_records: BadRecords
) -> Iterator[list[Document]]:
    """The documents of a scoring shard, whose files are `pool`, in blocks; those that were scored."""
    table = store.read_table(score, "score", ["doc_id", "source_file", "source_row"])
    rows_of = {
        name: set(part["source_row"].to_pylist())
        for name, part in store.by_pool_file(table).items()
    }
    ids, done = table["doc_id"].to_pylist(), 0
    for file in identified(located(pool), store.pool_of([score], "score")):
        scored = rows_of.get(file.name, set())
        read = read_documents(file, columns, rejects_of(bad_records))
        documents = (document for document in read if document.row in scored)
        while block := list(islice(documents, TOGETHER)):
            if [d.doc_id for d in block] != ids[done : done + len(block)]:
                expected = f"the documents of {score}, in this order"
                raise changed(expected, f"others, after {done:,} documents", file.path)
            yield block
            done += len(block)
    if done < len(ids):
        raise changed(f"the {len(ids):,} documents of {score}", f"{done:,}", ", ".join(pool))


def score_texts(
    label: str,
    score: Path,
    pool: list[str],
    columns: PoolColumns,
    bad_records: BadRecords,
    scores: Callable[[list[str]], np.ndarray],
) -> np.ndarray:
    """What `scores` says of the text of every document of a scoring shard [N], block by block."""
    progress = Progress(label, store.rows_of(score), "documents")
    found = [np.empty(0)]  # a shard may have no document
    for block in documents_of_shard(score, pool, columns, bad_records):
        found.append(scores([document.text for document in block]))
        progress.advance(len(block))
    progress.finish()
    return np.concatenate(found)


@dataclass(frozen=True)
class Members:
    """The documents of the clusters c with c % partitions == partition, cluster by cluster.

    shard_N, row_N: place of each; cluster_N ascending, in pool order within a cluster; `documents`
    counts those of the whole pool.
    """

    documents: int
    shard_N: np.ndarray
    row_N: np.ndarray
    cluster_N: np.ndarray
    influence_N: np.ndarray
    emb_ND: np.ndarray
    maximum: float  # of the individual influences of the whole pool

    def in_pool(self, chosen_N: np.ndarray) -> np.ndarray:
        """Indices of the chosen ones (bool [N]), in pool order."""
        order = self.pool_order()
        return order[chosen_N[order]]

    def pool_order(self) -> np.ndarray:
        """Indices of all of them, in pool order."""
        return np.lexsort((self.row_N, self.shard_N))

    def by_cluster(self) -> Iterator[slice]:
        """The places of one cluster's documents after the other."""
        bounds = np.flatnonzero(np.diff(self.cluster_N, prepend=-1, append=-1))
        for start, end in pairwise(bounds):
            yield slice(int(start), int(end))


def read_members(
    score: list[Path],
    cluster: list[Path],
    partition: int,
    partitions: int,
    scored_by: list[Path] | None = None,
    semantic: list[Path] | None = None,
) -> Members:
    """The members of a partition; influences and embeddings from `scored_by`, where it is given.

    Embeddings from `semantic` instead, where that is given. Memory: the embeddings of these
    clusters, one row group and the influences of a shard. Every partition reads every
    shard, so use no more partitions than memory asks for.
    """
    clusters = [store.read_clusters(s, c) for s, c in zip(score, cluster, strict=True)]
    rows = [np.flatnonzero(c % partitions == partition) for c in clusters]
    cluster_N = np.concatenate([c[r] for c, r in zip(clusters, rows, strict=True)])
    shard_N = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    by_cluster = grouping.by_cluster(cluster_N)  # pool order within a cluster
    for others in (scored_by, semantic):
        if others is not None:
            check_same_documents(score, others)
    influence_N, maximum = _read_influences(scored_by or score, rows)
    return Members(
        documents=sum(map(len, clusters)),
        shard_N=shard_N[by_cluster],
        row_N=np.concatenate(rows)[by_cluster],
        cluster_N=cluster_N[by_cluster],
        influence_N=influence_N[by_cluster],
        emb_ND=_read_embeddings(semantic or scored_by or score, rows, by_cluster),
        maximum=maximum,
    )


def check_same_documents(score: list[Path], others: list[Path]) -> None:
    """That the files of another model are of the same documents, row by row."""
    for one, other in zip(score, others, strict=True):
        ids, found = (store.read_column(p, store.embedded_as(p), "doc_id") for p in (one, other))
        if not ids.equals(found):
            raise store.other_rows(other, len(found), one, len(ids))


def _read_influences(score: list[Path], rows: list[np.ndarray]) -> tuple[np.ndarray, float]:
    """Influences of these rows in pool order, float32 [N]; the pool's maximum."""
    found, maximum = [], -np.inf
    for path, wanted in zip(score, rows, strict=True):
        influence = store.read_column(path, "score", "individual_influence").to_numpy()
        wrong = np.flatnonzero(~np.isfinite(influence))
        if len(wrong):
            raise store.damaged(
                path,
                "finite individual influences",
                f"{len(wrong):,} that are not, the first of them in row {wrong[0]:,}",
                "; if it recurs, look at fit/final/metrics.json",
            )
        maximum = max(maximum, float(influence.max(initial=-np.inf)))
        found.append(influence[wanted])
    return np.concatenate(found), maximum


def _read_embeddings(
    files: list[Path], rows: list[np.ndarray], by_cluster: np.ndarray
) -> np.ndarray:
    """Embeddings of these rows, float32 [N, D], in `by_cluster` order, row group by row group."""
    place_N = np.empty_like(by_cluster)
    place_N[by_cluster] = np.arange(len(by_cluster))
    kind = store.embedded_as(files[0])
    emb_ND = np.empty((len(place_N), store.embedding_size(files[0])), np.float32)
    filled = 0
    progress = Progress("embeddings", sum(map(len, rows)), "rows")
    for path, wanted in zip(files, rows, strict=True):
        first = 0
        for group_ND in store.embeddings(path, kind):
            low, high = np.searchsorted(wanted, [first, first + len(group_ND)])
            to = place_N[filled + low : filled + high]
            emb_ND[to] = group_ND[wanted[low:high] - first]
            first += len(group_ND)
        filled += len(wanted)
        progress.advance(len(wanted))
    progress.finish()
    return emb_ND


def read_orders(
    orders: list[Path], score: list[Path], offsets: np.ndarray
) -> dict[str, np.ndarray]:
    """The partitions of a method's order as one, in pool order; `place` is the position there.

    Memory: 44 bytes per document of the order. Column after column is read.
    """
    made_from = store.digests(score=score)
    for path in orders:
        inputs = store.table_record(path, "order")["inputs"]
        if {k: v for k, v in inputs.items() if k.startswith("score[")} != made_from:
            expected = "an order of the documents of these score files, in this sequence"
            found = "one that was made from other files or in another sequence"
            raise store.damaged(path, expected, found)

    def column(name: str) -> np.ndarray:
        return np.concatenate([store.read_column(p, "order", name).to_numpy() for p in orders])

    place_N = offsets[column("shard")]
    place_N += column("row")
    in_pool = np.argsort(place_N, kind="stable")
    order = {"place": place_N[in_pool]}
    del place_N
    order |= {name: column(name)[in_pool] for name in ("rank", "key", "group_influence")}
    twice = np.flatnonzero(order["place"][1:] == order["place"][:-1])
    if len(twice):
        place = order["place"][twice[0]]
        shard = int(np.searchsorted(offsets, place, side="right")) - 1
        expected = "orders of one partitioning, with every document at most once"
        found = f"row {place - offsets[shard]:,} of {score[shard]} twice"
        raise store.damaged(orders[0].parent, expected, found)
    return order
