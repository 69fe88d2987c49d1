"""One look over the whole pool: counts, an even sample of it, and the documents worth showing.

Memory does not grow with the pool but for one bit per document: tables of chosen documents have a
fixed number of rows (see `Documents`), everything else is added up.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa

from groupmates.artefacts.store import listed_rows, read_clusters, read_table, rows_by_file
from groupmates.errors import UserError
from groupmates.maths.randomness import priorities
from groupmates.progress import Progress
from groupmates.report.data.reading import codes, in_files, selected_rows
from groupmates.report.data.tally import Tally

COLUMNS = ["doc_id", "source_file", "source_row", "source", "n_tokens", "individual_influence"]

MOST_EXTREMES, MOST_PASSED_OVER = 6, 1000  # documents that a survey keeps
MOST_NAMES = 1_000_000  # of sources that are counted one by one: they are held in memory

# A table of chosen documents: COLUMNS, shard and row (where the score artefact has it), cluster,
# kept (by the featured method), passed_over, priority (a uniform random number).
Documents: TypeAlias = pa.Table


@dataclass(frozen=True)
class Survey:
    """What one pass over the pool found; `kept_SN` are packed bits per shard, of the featured method.

    Passed over: not selected, though it helps by itself, and more than another document of its
    cluster that was selected. In a greedy order by theta = factor * influence that can only be for
    its factor, that is, because it resembles what was selected before.
    """

    tally: Tally
    sources: list[str]
    sample: Documents  # evenly from the pool, in order of priority
    helpful: Documents  # best first, without copies
    harmful: Documents  # worst first, without copies
    passed_over: Documents  # evenly from all of them
    passed_over_C: np.ndarray  # their number per cluster
    kept_SN: list[np.ndarray]
    shown_SN: list[np.ndarray]  # of files whose texts can be shown; all, if none can


@dataclass
class Lowest:
    """The `keep` documents of lowest key that were added; of equal ones that of lowest priority.

    `single`: of those of one cluster whose keys are equal to three decimals, mostly copies, only one.
    """

    keep: int
    single: bool = False
    _table: Documents | None = None

    def add(self, documents: Documents, key_N: np.ndarray, among_N: np.ndarray) -> None:
        rows = np.flatnonzero(among_N)
        here = documents.take(rows).append_column("key", pa.array(key_N[rows].astype(np.float64)))
        here = here.take(self._rows(here))
        if self._table is not None:
            here = pa.concat_tables([self._table, here])
            here = here.take(self._rows(here))
        self._table = here.combine_chunks()

    def found(self) -> Documents:
        """Lowest first."""
        assert self._table is not None
        return self._table.drop_columns("key")

    def _rows(self, documents: Documents) -> np.ndarray:
        key_N, priority_N = documents["key"].to_numpy(), documents["priority"].to_numpy()
        order = np.lexsort((priority_N, key_N))
        if self.single:
            alike_N2 = np.column_stack([key_N, documents["cluster"].to_numpy()]).round(3)[order]
            order = order[np.sort(np.unique(alike_N2, axis=0, return_index=True)[1])]
        return order[: self.keep]


def survey(
    score: list[Path],
    cluster: list[Path],
    select: dict[str, dict[str, Path]],
    featured: str,
    readable: set[str],
    points: int,
    dropped: dict[str, Path],
) -> Survey:
    """A sample of so many `points`, and what else there is to show.

    `readable`: the pool files whose texts can be shown; extremes are of these, if there are any.
    `dropped`: documents that could not be selected, by the name of their score file.
    """
    check_shards(score, select)
    worst_C = worst_selected(list(select[featured].values()))
    tally, known = Tally.empty(len(select)), dict[str, int]()
    sample, passed = Lowest(points), Lowest(MOST_PASSED_OVER)
    helpful, harmful = Lowest(MOST_EXTREMES, single=True), Lowest(MOST_EXTREMES, single=True)
    passed_C, kept_SN, shown_SN = np.zeros(0, np.int64), list[np.ndarray](), list[np.ndarray]()
    shards = list(zip(score, cluster, strict=True))
    for path, of_cluster in Progress("report", len(shards), "shards").over(shards):
        scored = read_table(path, "score", COLUMNS)
        cluster_N = read_clusters(path, of_cluster)
        kept_MN = np.zeros((len(select), len(scored)), bool)
        for kept_N, files in zip(kept_MN, select.values(), strict=True):
            kept_N[selected_rows(files[path.name], scored)] = True
        influence_N = scored["individual_influence"].to_numpy()
        local_N, names = codes(scored["source"])
        code_N = np.array([_code(known, source_name(n)) for n in names.to_pylist()], np.int64)
        tally.add(scored["n_tokens"].to_numpy(), influence_N, code_N[local_N], cluster_N, kept_MN)

        kept_N = kept_MN[list(select).index(featured)]
        worst_C = padded(worst_C, int(cluster_N.max(initial=-1)) + 1, -np.inf)
        passed_N = ~kept_N & (influence_N < np.minimum(worst_C[cluster_N], 0.0))
        if path.name in dropped:
            overlapping = rows_by_file(read_table(dropped[path.name], "overlaps"))
            passed_N[listed_rows(path, overlapping)] = False
        counts_C = np.bincount(cluster_N[passed_N], minlength=len(worst_C))
        passed_C = padded(passed_C, len(counts_C), 0) + counts_C
        of_document = {"row": np.arange(len(scored)), "cluster": cluster_N}
        of_document |= {"kept": kept_N, "passed_over": passed_N}
        documents = _documents(scored, len(kept_SN), **of_document)
        kept_SN.append(np.packbits(kept_N))
        priority_N, everything_N = documents["priority"].to_numpy(), np.ones(len(scored), bool)
        shown_N = in_files(scored, readable) if readable else everything_N
        shown_SN.append(np.packbits(shown_N))
        sample.add(documents, priority_N, everything_N)
        passed.add(documents, priority_N, passed_N)
        helpful.add(documents, influence_N, shown_N)
        harmful.add(documents, -influence_N, shown_N)
    return Survey(
        tally,
        list(known),
        sample.found(),
        helpful.found(),
        harmful.found(),
        passed.found(),
        padded(passed_C, tally.documents_GC.shape[1], 0),
        kept_SN,
        shown_SN,
    )


def documents_at(
    score: list[Path], cluster: list[Path], kept_SN: list[np.ndarray], places: list[tuple[int, int]]
) -> Documents:
    """The documents at the given (shard, row), in that order; whether passed over is not known."""
    found = []
    for shard in sorted({shard for shard, _ in places}) or [0]:  # of none: an empty table
        scored = read_table(score[shard], "score", COLUMNS)
        cluster_N = read_clusters(score[shard], cluster[shard])
        rows = np.array([row for of_shard, row in places if of_shard == shard], np.int64)
        kept_N = np.unpackbits(kept_SN[shard], count=len(scored))[rows].astype(bool)
        of_document = {"row": rows, "cluster": cluster_N[rows], "kept": kept_N}
        of_document["passed_over"] = np.zeros(len(rows), bool)
        found.append(_documents(scored.take(rows), shard, **of_document))
    ordered = sorted(places, key=lambda place: place[0])  # stable: as they were found
    at = {place: i for i, place in enumerate(ordered)}
    order = pa.array([at[place] for place in places], pa.int64())
    return pa.concat_tables(found).take(order)


def source_name(source: str) -> str:
    """What a source is counted as: a web address as its host."""
    return urlsplit(source).hostname or source if "://" in source else source


def _code(known: dict[str, int], name: str) -> int:
    """The number of a source; of very many, the late ones count as one."""
    if name not in known and len(known) >= MOST_NAMES:
        name = "(further sources)"
    return known.setdefault(name, len(known))


def _documents(scored: pa.Table, shard: int, **known_N: np.ndarray) -> Documents:
    """These rows of a score shard as `Documents`; `known_N`: row, cluster, kept and passed_over."""
    columns = {name: scored[name] for name in COLUMNS}
    source_N, names = codes(scored["source"])
    counted_as = pa.array([source_name(name) for name in names.to_pylist()], pa.string())
    columns["source"] = counted_as.take(pa.array(source_N))
    columns["source_file"] = scored["source_file"].cast(pa.string())
    columns |= {
        "shard": np.full(len(scored), shard),
        **known_N,
        "priority": priorities(0, "report", scored["doc_id"].to_pylist()),
    }
    return pa.table(columns)


def worst_selected(select: list[Path]) -> np.ndarray:
    """The highest individual influence among the selected of each cluster; -inf where none is."""
    worst_C = np.zeros(0)
    for path in select:
        table = read_table(path, "select", ["cluster", "individual_influence"])
        cluster_N = table["cluster"].to_numpy()
        worst_C = padded(worst_C, int(cluster_N.max(initial=-1)) + 1, -np.inf)
        np.maximum.at(worst_C, cluster_N, table["individual_influence"].to_numpy())
    return worst_C


def padded(values: np.ndarray, size: int, fill: float) -> np.ndarray:
    """`values`, made at least `size` long."""
    more = np.full(max(0, size - len(values)), fill, values.dtype)
    return np.concatenate([values, more])


def check_shards(score: list[Path], select: dict[str, dict[str, Path]]) -> None:
    """Every method has selected from every shard."""
    for method, files in select.items():
        if files.keys() != {p.name for p in score}:
            raise UserError(
                expected=f"{len(score)} selected shards, named as those of score/",
                found=f"{len(files)} shards",
                where=f"select/{method}/",
                todo="your snakemake command, with --forcerun take in the place of its target",
            )
