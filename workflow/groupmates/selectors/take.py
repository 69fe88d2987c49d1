"""Take documents in a method's order until the budget is met: what all methods have in common."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groupmates.artefacts import store
from groupmates.artefacts.catalogue import DOCUMENT
from groupmates.artefacts.store import Provenance, read_column
from groupmates.errors import UserError
from groupmates.maths.grouping import by_cluster
from groupmates.maths.quota import documents_of_ratio, take
from groupmates.pool.documents import REPEATED
from groupmates.progress import Progress, note
from groupmates.selectors.order import read_orders
from groupmates.settings.per_stage import TakeSettings
from groupmates.settings.sections import Budget


def run(
    settings: TakeSettings,
    *,
    method: str,
    orders: list[Path],
    score: list[Path],
    cluster: list[Path],
    rejects: Path,
    overlaps: list[Path] | None = None,
    consumed: list[Path] | None = None,
    output: list[Path],
) -> None:
    """Take a method's documents until the budget is met; one table of them per score shard.

    Of documents of one id, which `rejects` lists, only the first can be taken. Those in `overlaps`, one
    table per score shard, cannot be, and neither can those in `consumed`, the ledgers of earlier stages
    of pretraining. The ratio is that of the pool with what was consumed. Whatever a selection from
    another pool left beside the tables is removed.

    Raises `UserError` where what the earlier stages have left is less than the budget.
    """
    progress = Progress(f"take {method}", sum(map(store.rows_of, score)), "documents")
    made_of = {"orders": orders, "score": score, "cluster": cluster, "overlaps": overlaps}
    provenance = Provenance.of("select", settings, **made_of, consumed=consumed)
    provenance = provenance.also(method=method)
    n_tokens = [read_column(path, "score", "n_tokens").to_numpy() for path in score]
    offsets = np.cumsum([0, *map(len, n_tokens)])
    order = read_orders(orders, score, offsets)
    left_out = left_out_of(rejects, overlaps or [], score, offsets)
    order = without(order, left_out)
    documents, ranked = int(offsets[-1]) - len(left_out), len(order["place"])
    order = without(order, consumed_of(consumed or [], score, offsets, method))
    place_N = order["place"]  # position in the pool
    n_tokens_N = np.concatenate(n_tokens)[place_N]

    budget = settings.budget
    wanted = None if budget.ratio is None else documents_of_ratio(budget.ratio, documents)
    check_enough(method, budget, wanted, n_tokens_N, ranked)
    taken = take(order["key"], order["rank"], n_tokens_N, documents=wanted, tokens=budget.tokens)
    clusters = [store.read_clusters(s, c) for s, c in zip(score, cluster, strict=True)]
    rank = np.empty(len(place_N), np.int32)
    rank[taken] = rank_within(np.concatenate(clusters)[place_N[taken]])

    chosen = np.sort(taken)  # pool order
    ends = np.searchsorted(place_N[chosen], offsets)
    known = [*DOCUMENT, "n_tokens", "individual_influence"]
    for shard, path in enumerate(score):
        here = chosen[ends[shard] : ends[shard + 1]]
        row = place_N[here] - offsets[shard]
        table = store.read_table(path, "score", known).take(pa.array(row))
        columns: dict[str, Any] = {name: table[name] for name in known} | {
            "cluster": clusters[shard][row],
            "rank": rank[here],
            "group_influence": order["group_influence"][here],
        }
        files = store.of_pool(store.pool_of([path], "score"))
        made = replace(provenance, inputs=provenance.inputs | files)
        store.write_table(output[shard], "select", made, columns)
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


def left_out_of(
    rejects: Path, overlaps: list[Path], score: list[Path], offsets: np.ndarray
) -> np.ndarray:
    """Positions in the pool of scored documents that cannot be taken, int64."""
    listed = store.read_table(rejects, "rejects", ["source_file", "source_row", "reason"])
    repeated = store.rows_by_file(listed.filter(pc.equal(listed["reason"], REPEATED)))
    found = [np.empty(0, np.int64)]
    for n, (path, first) in enumerate(zip(score, offsets, strict=False)):
        found.append(first + store.listed_rows(path, repeated))
        if overlaps:
            shared = store.rows_by_file(store.read_table(overlaps[n], "overlaps"))
            found.append(first + store.listed_rows(path, shared))
    return np.unique(np.concatenate(found))


def consumed_of(
    ledgers: list[Path], score: list[Path], offsets: np.ndarray, method: str
) -> np.ndarray:
    """Positions in the pool of documents that earlier stages were trained on, int64."""
    found = [np.empty(0, np.int64)]
    for stage, path in enumerate(ledgers, 1):
        ledger = store.read_table(path, "ledger", ["source_file", "source_row", "tokens"])
        listed = store.rows_by_file(ledger)
        for shard, first in zip(score, offsets, strict=False):
            found.append(first + store.listed_rows(shard, listed))
        told = f"{pc.sum(ledger['tokens']).as_py() or 0:,} tokens of {len(ledger):,} documents"
        note(f"select {method}", f"stage {stage} was trained on {told}: none is taken again")
    return np.unique(np.concatenate(found))


def without(order: dict[str, np.ndarray], places: np.ndarray) -> dict[str, np.ndarray]:
    """An order without the documents at these positions in the pool."""
    if not len(places):
        return order
    stay = ~np.isin(order["place"], places)
    return {name: values[stay] for name, values in order.items()}


def check_enough(
    method: str, budget: Budget, wanted: int | None, n_tokens_N: np.ndarray, ranked: int
) -> None:
    """That what earlier stages have left of an order meets the budget of this one.

    `n_tokens_N` are the tokens of the documents that are left, of `ranked` documents.
    """
    left, unit = len(n_tokens_N), "documents"
    needed = wanted
    if budget.tokens is not None:
        left, needed, unit = int(n_tokens_N.sum()), budget.tokens, "tokens"
    assert needed is not None
    consumed = ranked - len(n_tokens_N)
    if consumed and left < needed:
        raise UserError(
            expected=f"at least {needed:,} {unit} that no earlier stage was trained on",
            found=f"{left:,}, in {len(n_tokens_N):,} documents: of the {ranked:,} in the order of "
            f"{method}, {consumed:,} were trained on",
            where="pretrain.stages, select.budget",
            todo="lower select.budget, take a larger pool, or set pretrain.repeat to true: a stage "
            "may then select again what an earlier one was trained on",
        )


def rank_within(cluster_N: np.ndarray) -> np.ndarray:
    """How many documents before each one are of its cluster."""
    order = by_cluster(cluster_N)
    grouped = cluster_N[order]
    rank_N = np.empty(len(cluster_N), np.int32)
    rank_N[order] = np.arange(len(grouped)) - np.searchsorted(grouped, grouped)
    return rank_N
