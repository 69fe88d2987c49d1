"""What one method has selected, as a question about one document reads it.

Of the pool only narrow columns are read whole; of embeddings the row groups of the documents that
are asked for. A document is known by its place: number of its score file, row in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groupmates.artefacts.catalogue import DOCUMENT, line_of, path
from groupmates.artefacts.store import (
    POOL,
    damaged,
    digest,
    embedded_as,
    embedding_size,
    embeddings,
    intact,
    listed_rows,
    open_table,
    read_folder_json,
    read_table,
    read_where,
    row_groups,
    rows_by_file,
    table_record,
)
from groupmates.errors import UserError
from groupmates.maths.relation import Relation

T = TypeVar("T")
R = TypeVar("R")
READERS = min(16, 2 * (os.cpu_count() or 1))  # files that are read at once


@dataclass(frozen=True)
class Order:
    """A cluster's documents in the order in which a method takes them; the first `taken` are."""

    place_N2: np.ndarray
    theta_N: np.ndarray
    taken: int

    def rank(self, place: tuple[int, int]) -> int | None:
        """Position of a document; None where it is not in the order."""
        found = np.flatnonzero((self.place_N2 == place).all(axis=1))
        return int(found[0]) if len(found) else None


@dataclass(frozen=True)
class Selection:
    """The files of a method's selection; `made` is the provenance of its order.

    `run`: the folder of the run, or that of a later stage of pretraining in it. `embedded`: the
    embeddings that it compares documents by, rows as in `score`. `overlaps`: what was left out for what
    it shares with evaluation examples; `consumed`: what earlier stages were trained on, stage by stage;
    none where nothing was left out.
    """

    run: Path
    method: str
    select: list[Path]
    score: list[Path]
    cluster: list[Path]
    orders: list[Path]
    overlaps: list[Path]
    consumed: list[Path]
    embedded: list[Path]
    made: dict[str, Any]

    @classmethod
    def of(cls, run: Path, method: str) -> Self:
        """A finished selection; `UserError` where its inputs are no longer those it was made from."""
        select = sorted(run.glob(path("select").format(method=method, shard="*")))
        if not select:
            others = sorted(folder.name for folder in (run / "select").glob("*") if folder.is_dir())
            raise UserError(
                expected="a selection of this method",
                found=f"none; there are {', '.join(others)}" if others else "none of any method",
                where=str(run / "select" / method),
                todo="correct the run's folder or --method, or let snakemake finish the selection",
            )
        record = table_record(select[0], "select")
        count = {name: sum(i.startswith(f"{name}[") for i in record["inputs"]) for name in FILES}
        first = found_in(run, FILES["orders"].format(n="00000", method=method))
        made = table_record(first, "order") if first.exists() else {"settings": {}, "inputs": {}}
        meant = clusters_of(made) == "semantic"
        files = {
            name: [
                found_in(run, pattern.format(n=f"{i:05d}", method=method))
                for i in range(count[name])
            ]
            for name, pattern in (FILES | MEANT if meant else FILES).items()
        }
        ledger = path("ledger").format(method=method, seed=0)
        stages = range(1, 1 + sum(i.startswith("consumed[") for i in record["inputs"]))
        files["consumed"] = [whole(run) / line_of(stage, method) / ledger for stage in stages]
        check_unchanged(record["inputs"], files, select[0])
        embedded = files["score"]
        recorded = {k: v for k, v in made["inputs"].items() if k.startswith("semantic[")}
        if recorded:
            embedded = [
                found_in(run, path("semantic").format(shard=f"{i:05d}"))
                for i in range(len(embedded))
            ]
            check_unchanged(recorded, {"semantic": embedded}, first)
        return cls(run, method, select, **files, embedded=embedded, made=made)

    @cached_property
    def relation(self) -> Relation:
        """The relation of the final influence model, as the method goes by it."""
        model = self.run / path("fit").format(model="final")
        fitted = Relation.from_json(read_folder_json(model, "fit", "relation.json"))
        ours = self.made["settings"]["group_mates"]
        return fitted.used_as(ours["relation"], ours.get("sharpness"))

    def check_model(self) -> None:
        """That the influence model is the one that the order was made with."""
        if "model" in self.made["inputs"]:
            model = self.run / path("fit").format(model="final")
            recorded = {"model": self.made["inputs"]["model"]}
            check_unchanged(recorded, {"model": model}, self.orders[0])

    @cached_property
    def left_out(self) -> np.ndarray:
        """Codes of the documents that were left out, whyever."""
        return np.concatenate([self.overlapping, *self.trained_on])

    @cached_property
    def overlapping(self) -> np.ndarray:
        """Codes of the documents that were left out for what they share with examples."""
        files = zip(self.score, self.overlaps, strict=False)
        rows = [listed_rows(s, rows_by_file(read_table(file, "overlaps"))) for s, file in files]
        return _codes_of_shards(rows)

    @cached_property
    def trained_on(self) -> list[np.ndarray]:
        """Codes of the documents that each earlier stage was trained on, which were left out."""
        ledgers = [rows_by_file(read_table(file, "ledger")) for file in self.consumed]
        return [_codes_of_shards([listed_rows(s, of) for s in self.score]) for of in ledgers]

    def trained_in(self, place: tuple[int, int]) -> int | None:
        """The stage that was trained on a document, from 1; None where none before this one was."""
        code = _codes(*np.array([place]).T)[0]
        return next((i for i, codes in enumerate(self.trained_on, 1) if code in codes), None)

    def overlap(self, place: tuple[int, int]) -> dict[str, Any] | None:
        """What a document shares with an example, where it was left out for that."""
        if _codes(*np.array([place]).T)[0] not in self.overlapping:
            return None
        document = self.document(place)
        listed = read_table(self.overlaps[place[0]], "overlaps").to_pylist()
        same = ("source_file", "source_row")
        return next(row for row in listed if all(row[name] == document[name] for name in same))

    def find(self, doc_id: str) -> tuple[int, int]:
        """Place of a document."""
        tasks = ((shard, file, doc_id) for shard, file in enumerate(self.score))
        for place in _parallel(_find, tasks):
            if place is not None:
                return place
        known = next(row_groups(self.score[0], "score", ["doc_id"]))["doc_id"][0].as_py()
        raise UserError(
            expected=f"the id of a document of the pool, such as {known}",
            found=repr(doc_id),
            where=str(self.run / "score"),
            todo="look ids up in score/*.parquet",
        )

    def document(self, place: tuple[int, int]) -> dict[str, Any]:
        """Everything that score/ and cluster/ know of a document; its embedding as an array."""
        at_12 = np.array([place])
        columns = [*DOCUMENT, "source", "n_tokens", "individual_influence"]
        (found,) = _rows(self.score, at_12, columns).to_pylist()
        clusters = read_table(self.cluster[place[0]], "cluster", ["cluster"])["cluster"]
        return found | {
            "embedding": _embeddings(self.embedded, at_12)[0],
            "cluster": clusters[place[1]].as_py(),
        }

    def influences(self) -> list[np.ndarray]:
        """Individual influence of every document, shard by shard: 4 bytes per document."""
        tasks = ((file, "score", "individual_influence") for file in self.score)
        return list(_parallel(_column, tasks))

    def members(self, cluster: int) -> np.ndarray:
        """Places of a cluster's documents in pool order, int64 [N, 2]."""
        tasks = ((file, "cluster", "cluster") for file in self.cluster)
        rows = [np.flatnonzero(c == cluster) for c in _parallel(_column, tasks)]
        shards = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        return np.stack([shards, np.concatenate(rows)], axis=1)

    def order(self, cluster: int, members_N2: np.ndarray, taken: int) -> Order:
        """The documents among `members_N2` that the method has put in order, by (key, rank, place)."""
        wanted = _codes(members_N2[:, 0], members_N2[:, 1])
        names = ["shard", "row", "key", "rank", "group_influence"]
        found: list[pa.Table] = []
        by_cluster = "partitions" in self.made["settings"]  # else each file has its shards
        files = [self.orders[cluster % len(self.orders)]] if by_cluster else self.orders
        for table in (t for file in files for t in row_groups(file, "order", names)):
            here = np.isin(_codes(table["shard"].to_numpy(), table["row"].to_numpy()), wanted)
            here &= self._takeable(table)
            found.append(table.filter(here))
        by = [(name, "ascending") for name in ("key", "rank", "shard", "row")]
        ordered = pa.concat_tables(found).sort_by(by)
        place_N2 = np.stack([ordered["shard"].to_numpy(), ordered["row"].to_numpy()], axis=1)
        return Order(place_N2, ordered["group_influence"].to_numpy(), taken)

    def taken(self, cluster: int) -> int:
        """How many documents of a cluster are selected."""
        tasks = ((file, "select", ["cluster"], [("cluster", "=", cluster)]) for file in self.select)
        return sum(map(len, _parallel(read_where, tasks)))

    def last_key(self) -> float:
        """Key of the last document that was taken; 8 bytes per document of the order."""
        taken = sum(open_table(file, "select").metadata.num_rows for file in self.select)
        names = ["shard", "row", "key"]
        tables = _parallel(read_table, ((file, "order", names) for file in self.orders))
        key_N = np.concatenate([t["key"].to_numpy()[self._takeable(t)] for t in tables])
        return float(np.partition(key_N, taken - 1)[taken - 1])

    def _takeable(self, order: pa.Table) -> np.ndarray:
        """Which rows of an order are of documents that were not left out."""
        codes_N = _codes(order["shard"].to_numpy(), order["row"].to_numpy())
        return ~np.isin(codes_N, self.left_out)

    def read(self, place_N2: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Ids, individual influences and embeddings of these documents, in their order."""
        if not len(place_N2):
            emb_ND = np.empty((0, embedding_size(self.embedded[0])), np.float32)
            return [], np.empty(0, np.float32), emb_ND
        table = _rows(self.score, place_N2, ["doc_id", "individual_influence"])
        influence_N = table["individual_influence"].to_numpy()
        return table["doc_id"].to_pylist(), influence_N, _embeddings(self.embedded, place_N2)


FILES = {
    "orders": path("order").replace("{partition}", "{n}"),
    "score": path("score").replace("{shard}", "{n}"),
    "cluster": path("cluster").replace("{shard}", "{n}"),
    "overlaps": path("overlaps").replace("{shard}", "{n}"),
}
MEANT = {"cluster": path("semantic_cluster").replace("{shard}", "{n}")}


def found_in(run: Path, file: str) -> Path:
    """An artefact of a run, or of a later stage in it, which has the run's where it makes none."""
    return run / file if (run / file).exists() else whole(run) / file


def whole(run: Path) -> Path:
    """The folder of a run, from that of a later stage in it too."""
    return run.parents[2] if run.absolute().parents[1].name == "stages" else run


def clusters_of(made: dict[str, Any]) -> str:
    """The clusters of a method by the provenance of its order, semantic or influence-aware ones."""
    sections = (s for s in made["settings"].values() if isinstance(s, dict) and "clusters" in s)
    clusters: str = next(sections, {"clusters": "influence"})["clusters"]
    return clusters


def check_unchanged(recorded: dict[str, str], files: dict[str, Any], made: Path) -> None:
    """That the inputs of the file `made` are still those that were recorded."""
    # Not files of the pool: nothing is read of them.
    for name in (name for name in recorded if not name.startswith(POOL)):
        kind, _, number = name.rstrip("]").partition("[")
        file = files[kind][int(number)] if number else files[kind]
        if not file.exists() or digest(file) != recorded[name]:
            found = "another one now" if file.exists() else "no file"
            raise damaged(file, f"the input that {made} was made from", found)


def _codes_of_shards(rows: list[np.ndarray]) -> np.ndarray:
    """The rows of each shard as codes."""
    shard_N = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
    return _codes(shard_N, np.concatenate([np.empty(0, np.int64), *rows]))


def _codes(shard_N: np.ndarray, row_N: np.ndarray) -> np.ndarray:
    """Places as one number each, in pool order."""
    return shard_N.astype(np.int64) << 40 | row_N


def _parallel(function: Callable[..., R], tasks: Iterable[tuple[Any, ...]]) -> Iterable[R]:
    """Results in the order of the tasks; Arrow reads without the interpreter's lock."""
    with ThreadPoolExecutor(READERS) as pool:
        futures = [pool.submit(function, *task) for task in tasks]
        try:
            for future in futures:
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _find(shard: int, file: Path, doc_id: str) -> tuple[int, int] | None:
    opened = open_table(file, "score")
    column, first = opened.schema_arrow.get_field_index("doc_id"), 0
    for group in range(opened.num_row_groups):
        known = opened.metadata.row_group(group)
        bounds = known.column(column).statistics
        if bounds is None or not bounds.has_min_max or bounds.min <= doc_id <= bounds.max:
            with intact(file):
                ids = opened.read_row_group(group, ["doc_id"])["doc_id"]
            at = pc.index(ids, doc_id).as_py()
            if at >= 0:
                return shard, first + at
        first += known.num_rows
    return None


def _column(file: Path, artefact: str, name: str) -> np.ndarray:
    values: np.ndarray = read_table(file, artefact, [name])[name].to_numpy()
    return values


def _rows(files: list[Path], place_N2: np.ndarray, columns: list[str]) -> pa.Table:
    """Rows of score files, in the order of the places."""
    tasks, order = _by_file(files, place_N2)
    return pa.concat_tables(_parallel(_of_file, ((*task, columns) for task in tasks))).take(order)


def _embeddings(files: list[Path], place_N2: np.ndarray) -> np.ndarray:
    """The embeddings of these places, by score files or those of semantic ones, in their order."""
    tasks, order = _by_file(files, place_N2)
    return np.concatenate(list(_parallel(_embeddings_of_file, tasks)))[order]


def _by_file(
    files: list[Path], place_N2: np.ndarray
) -> tuple[list[tuple[Path, np.ndarray]], np.ndarray]:
    """The ascending rows of each file, and what puts them in the order of the places again."""
    shard_N, row_N = place_N2.T
    tasks = [(files[s], np.sort(row_N[shard_N == s])) for s in np.unique(shard_N)]
    return tasks, np.argsort(np.lexsort((row_N, shard_N)))


def _of_file(file: Path, rows: np.ndarray, columns: list[str]) -> pa.Table:
    """Ascending rows of a file; row groups without any of them are not read."""
    opened = open_table(file, "score")
    with intact(file):
        return pa.concat_tables(
            opened.read_row_group(g, columns).take(mine) for g, mine in _by_group(opened, rows)
        )


def _embeddings_of_file(file: Path, rows: np.ndarray) -> np.ndarray:
    kind = embedded_as(file)
    groups = _by_group(open_table(file, kind), rows)
    blocks = embeddings(file, kind, [g for g, _ in groups])
    return np.concatenate([emb[mine] for emb, (_, mine) in zip(blocks, groups, strict=True)])


def _by_group(opened: pq.ParquetFile, rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """The row groups with any of the ascending rows, and which of each group's rows they are."""
    known = opened.metadata
    start_G = np.cumsum([0, *(known.row_group(g).num_rows for g in range(known.num_row_groups))])
    group_N = np.searchsorted(start_G, rows, side="right") - 1
    return [(g, rows[group_N == g] - start_G[g]) for g in np.unique(group_N).tolist()]
