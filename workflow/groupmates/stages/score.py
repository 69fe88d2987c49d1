"""Individual influence and embedding of every document of a shard, by the final influence model."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from groupmates.config import ScoreSettings
from groupmates.errors import UserError
from groupmates.models.influence import InfluenceModel
from groupmates.models.text import document_tokens, load_tokenizer
from groupmates.pool import PoolFile, named
from groupmates.progress import Progress
from groupmates.readers import Document, read_documents
from groupmates.store import Provenance, digest, read_table, table_writer

ROW_GROUP = 4096  # documents that are tokenised, sorted by length and encoded together


def run(
    settings: ScoreSettings,
    *,
    pool: list[Path],
    root: Path,
    files: Path,
    model: Path,
    output: Path,
    threads: int = 1,
) -> None:
    """Score the documents of `pool` (files below `root`), in pool order."""
    torch.set_num_threads(threads)
    influence = InfluenceModel.load(model)
    tokenizer = load_tokenizer(model / "tokenizer")
    listing = read_table(files, "files")
    known = dict(zip(listing["source_file"].to_pylist(), listing.to_pylist(), strict=True))
    pool_files = [named(path, root) for path in pool]
    provenance = Provenance(
        "score",
        settings.model_dump(mode="json"),
        {f.name: known[f.name]["sha256"] for f in pool_files} | {"model": digest(model)},
    )
    limit = settings.sequence_length + 1
    total = sum(known[f.name]["documents"] for f in pool_files)
    progress = Progress(f"score {output.stem}", total, "documents")
    with table_writer(output, "score", provenance, influence.encoder.size) as writer:
        for file in pool_files:
            check_unchanged(file, known[file.name]["bytes"])
            for documents in blocks(read_documents(file, settings.columns)):
                texts = [d.text for d in documents]
                tokens = document_tokens(tokenizer, texts)
                windows = [t[:limit] for t in tokens]
                individual, embeddings = influence.score(
                    texts, windows, settings.score.batch_tokens
                )
                writer.write(
                    {
                        "doc_id": [d.doc_id for d in documents],
                        "source_file": [file.name] * len(documents),
                        "source_row": [d.row for d in documents],
                        "source": [d.source for d in documents],
                        "n_tokens": np.array([len(t) for t in tokens]),
                        "individual_influence": individual,
                        "embedding": embeddings,
                    }
                )
                progress.advance(len(documents))
    progress.finish()


def blocks(documents: Iterator[Document]) -> Iterator[list[Document]]:
    while block := list(islice(documents, ROW_GROUP)):
        yield block


def check_unchanged(file: PoolFile, size: int) -> None:
    """A pool file must be the one that was checked and sampled."""
    found = Path(file.path).stat().st_size
    if found != size:
        raise UserError(
            expected=f"{size:,} bytes, as when the pool was sampled",
            found=f"{found:,} bytes",
            where=file.path,
            todo="do not change pool files during a run; run snakemake again to sample anew",
        )
