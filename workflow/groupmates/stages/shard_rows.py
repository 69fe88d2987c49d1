"""A row for every document of a shard, made row group by row group and kept where a job is killed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from groupmates.artefacts.store import (
    Provenance,
    embeddings,
    of_pool,
    read_table,
    row_groups,
    table_writer,
)
from groupmates.artefacts.unfinished import Kept
from groupmates.pool.documents import Document, read_documents, rejects_of, tokenless_rows
from groupmates.pool.identity import identified, identity
from groupmates.pool.listing import PoolFile, located
from groupmates.progress import Progress
from groupmates.settings.config import BadRecords, PoolColumns

T = TypeVar("T")

ROW_GROUP = 4096  # documents that are tokenised, sorted by length and encoded together


@dataclass(frozen=True)
class Shard:
    """The pool files of a shard, as they were checked, and how many documents they have.

    `without_token`: rows that the check left out because of the tokenizer, by the file's name.
    """

    files: list[PoolFile]
    documents: int
    without_token: dict[str, frozenset[int]]

    @classmethod
    def of(cls, pool: list[str], check: Path) -> Shard:
        """The shard of the files `pool`, which are listed in `check`."""
        names = ["source_file", "bytes", "sha256", "documents", "rejects"]
        listing = read_table(check, "check", names)
        checked = {row["source_file"]: row for row in listing.to_pylist()}
        identities = {n: identity(row["bytes"], row["sha256"]) for n, row in checked.items()}
        files = identified(located(pool), identities)
        documents = sum(checked[file.name]["documents"] for file in files)
        rows = {file.name: tokenless_rows(checked[file.name]["rejects"]) for file in files}
        return cls(files, documents, rows)

    @property
    def inputs(self) -> dict[str, str]:
        """The files, as provenance names them."""
        return of_pool({file.name: str(file.identity) for file in self.files})


def write_rows(
    output: Path,
    provenance: Provenance,
    shard: Shard,
    columns: PoolColumns,
    bad_records: BadRecords,
    embedding_size: int,
    tokens_of: Callable[[PoolFile, list[Document]], T],
    rows_of: Callable[[PoolFile, list[Document], T], dict[str, Any]],
    artefact: str = "score",
) -> None:
    """Write what `rows_of` makes of the documents, row group after row group, in pool order.

    `tokens_of` is its work that no GPU does. It is a row group ahead, in a thread of its own: reading
    and tokenising take as long as the GPU needs. What a killed job has made is kept in pieces of
    finished row groups.
    """
    with Kept(output, artefact, provenance) as kept:
        done = kept.state.get("documents", 0)
        progress = Progress(f"{provenance.stage} {output.stem}", shard.documents, "documents", done)
        unsaved: list[dict[str, Any]] = []  # row groups

        def write(path: Path, groups: Iterable[Any]) -> None:
            with table_writer(path, artefact, provenance, embedding_size) as writer:
                for group in groups:
                    writer.write(group)

        whole = blocks(done, shard, columns, bad_records)
        read = ((file, documents, tokens_of(file, documents)) for file, documents in whole)
        for file, documents, tokens in ahead(read):
            unsaved.append(rows_of(file, documents, tokens))
            progress.advance(len(documents))
            if kept.due():
                piece = f"piece-{len(kept.files):06d}.parquet"
                kept.save({"documents": progress.done}, {piece: partial(write, groups=unsaved)})
                unsaved = []
        progress.finish()
        write(output, chain(_saved_groups(kept, artefact), unsaved))
        kept.clear()


def score_columns(
    file: PoolFile,
    documents: list[Document],
    n_tokens: Iterable[int],
    individual_N: np.ndarray,
    emb_ND: np.ndarray,
) -> dict[str, Any]:
    """The columns of score for documents of one file; `n_tokens`: of the language model."""
    return {
        "doc_id": [d.doc_id for d in documents],
        "source_file": [file.name] * len(documents),
        "source_row": [d.row for d in documents],
        "source": [d.source for d in documents],
        "n_tokens": list(n_tokens),
        "individual_influence": individual_N,
        "embedding": emb_ND,
    }


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, each made while the one before it is worked on."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, None)
        while (item := coming.result()) is not None:
            coming = thread.submit(next, items, None)
            yield item


def _saved_groups(kept: Kept, artefact: str) -> Iterator[dict[str, Any]]:
    """The row groups of all pieces, in their order."""
    for piece in (kept.file(name) for name in kept.files if name.endswith(".parquet")):
        groups = zip(row_groups(piece, artefact), embeddings(piece, artefact), strict=True)
        for table, emb_ND in groups:
            columns = dict(zip(table.column_names, table.columns, strict=True))
            yield columns | {"embedding": emb_ND}


def blocks(
    done: int, shard: Shard, columns: PoolColumns, bad_records: BadRecords
) -> Iterator[tuple[PoolFile, list[Document]]]:
    """The documents of row group after row group, past the first `done`: whole groups."""
    for file in shard.files:
        rejects, left_out = rejects_of(bad_records), shard.without_token[file.name]
        documents = read_documents(file, columns, rejects, left_out)
        while block := list(islice(documents, ROW_GROUP)):
            if done:
                done -= len(block)
                assert done >= 0, "what was kept ends within a row group"
                continue
            yield file, block
