"""Individual influence and embedding of every document of a shard, by the final influence model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from transformers import PreTrainedTokenizerBase

from groupmates.artefacts import ARTEFACTS
from groupmates.config import ScoreSettings
from groupmates.errors import UserError
from groupmates.lines import bytes_of, place
from groupmates.models.influence import InfluenceModel
from groupmates.models.text import document_tokens, load_tokenizer
from groupmates.pool import PoolFile, located
from groupmates.progress import Progress
from groupmates.readers import Document, read_documents, rejects_of
from groupmates.resume import Kept
from groupmates.store import Provenance, digest, read_table, row_groups, table_writer

ROW_GROUP = 4096  # documents that are tokenised, sorted by length and encoded together


def run(
    settings: ScoreSettings,
    *,
    pool: list[str],
    root: str,
    check: Path,
    model: Path,
    output: Path,
    threads: int = 1,
) -> None:
    """Score the documents of `pool` (files below `root`, listed in `check`), in pool order.

    Row group by row group; what a killed job has scored is kept in pieces of finished row groups.
    """
    torch.set_num_threads(threads)
    influence = InfluenceModel.load(model)
    tokenizer = load_tokenizer(model / "tokenizer")
    listing = read_table(check, "check", ["source_file", "bytes", "sha256", "documents"])
    known = dict(zip(listing["source_file"].to_pylist(), listing.to_pylist(), strict=True))
    pool_files = located(pool, root)
    provenance = Provenance(
        "score",
        settings.model_dump(mode="json"),
        {f.name: known[f.name]["sha256"] for f in pool_files} | {"model": digest(model)},
    )
    total = sum(known[f.name]["documents"] for f in pool_files)
    with Kept(output, "score", provenance) as kept:
        done = kept.state.get("documents", 0)
        progress = Progress(f"score {output.stem}", total, "documents", done)
        unsaved: list[dict[str, Any]] = []  # row groups

        def write(path: Path, groups: Iterable[Any]) -> None:
            with table_writer(path, "score", provenance, influence.encoder.size) as writer:
                for columns in groups:
                    writer.write(columns)

        for file in pool_files:
            check_unchanged(file, known[file.name]["bytes"])
        for columns in row_groups_from(done, settings, pool_files, influence, tokenizer):
            unsaved.append(columns)
            progress.advance(len(columns["doc_id"]))
            if kept.due():
                piece = f"piece-{len(kept.files):06d}.parquet"
                kept.save({"documents": progress.done}, {piece: partial(write, groups=unsaved)})
                unsaved = []
        progress.finish()
        write(output, chain(saved_groups(kept), unsaved))
        kept.clear()


def saved_groups(kept: Kept) -> Iterator[pa.Table]:
    """The row groups of all pieces, in their order."""
    for piece in kept.files:
        yield from row_groups(kept.file(piece), "score", list(ARTEFACTS["score"].columns or ()))


def row_groups_from(
    done: int,
    settings: ScoreSettings,
    files: list[PoolFile],
    influence: InfluenceModel,
    tokenizer: PreTrainedTokenizerBase,
) -> Iterator[dict[str, Any]]:
    """Columns of row group after row group, past the first `done` documents: whole groups."""
    for file in files:
        rejects = rejects_of(settings.bad_records)
        for documents in blocks(read_documents(file, settings.columns, rejects)):
            if done:
                done -= len(documents)
                assert done >= 0, "what was kept ends within a row group"
                continue
            texts = [d.text for d in documents]
            tokens = document_tokens(tokenizer, texts)
            windows = [t[: settings.sequence_length + 1] for t in tokens]
            individual, embeddings = influence.score(texts, windows, settings.score.batch_tokens)
            check_finite(file, documents, individual, embeddings)
            yield {
                "doc_id": [d.doc_id for d in documents],
                "source_file": [file.name] * len(documents),
                "source_row": [d.row for d in documents],
                "source": [d.source for d in documents],
                "n_tokens": np.array([len(t) for t in tokens]),
                "individual_influence": individual,
                "embedding": embeddings,
            }


def check_finite(
    file: PoolFile, documents: list[Document], individual_N: np.ndarray, emb_ND: np.ndarray
) -> None:
    wrong = np.flatnonzero(~(np.isfinite(individual_N) & np.isfinite(emb_ND).all(1)))
    if len(wrong):
        raise UserError(
            expected="a finite influence and embedding of every document",
            found=f"nan or inf for {documents[wrong[0]].doc_id!r}, one of {len(wrong):,} such",
            where=place(file.path, documents[wrong[0]].row),
            todo="look at fit/final/metrics.json: the influence model is broken, fit it with a lower "
            "fit.training.learning_rate; where it is this document alone, take it out of the pool",
        )


def blocks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while block := list(islice(documents, ROW_GROUP)):
        yield block


def check_unchanged(file: PoolFile, size: int) -> None:
    """A pool file must be the one that was checked and sampled."""
    found = bytes_of(file.path)
    if found != size:
        raise UserError(
            expected=f"{size:,} bytes, as when the pool was sampled",
            found=f"{found:,} bytes",
            where=file.path,
            todo="do not change pool files during a run; run snakemake again to sample anew",
        )
