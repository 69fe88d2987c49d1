"""One pass over the whole pool: check it, and draw the samples that later stages probe and train on.

Reading everything once, before any GPU hour, is what finds the broken line in file 200 early.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerBase

from groupmates.config import SampleSettings
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models.text import (
    document_tokens,
    load_tokenizer,
    train_tokenizer,
)
from groupmates.pool import PoolFile, list_files
from groupmates.progress import Progress, note
from groupmates.readers import Document, read_documents, sha256_of
from groupmates.store import (
    Provenance,
    replacing,
    write_folder_provenance,
    write_table,
)

TOKENIZER_TEXTS = 20_000  # documents that a tokenizer is trained on; more change its merges little


@dataclass(order=True, frozen=True)
class Drawn:
    """A sampled document; ordered by priority, the largest first, as the heap needs it."""

    minus_priority: int
    place: tuple[int, int]
    file: PoolFile
    document: Document


def run(
    settings: SampleSettings,
    *,
    pool: list[str],
    tokenizer: Path,
    files: Path,
    probe_pool: Path,
    training_pool: Path,
) -> None:
    """Write tokenizer, file list, probe pool and training pool; `pool` are pool.paths' patterns."""
    sample = settings.sample
    pool_files = list_files(pool)
    drawn, listing = draw(settings, pool_files)
    probed, training = drawn[: sample.probe_documents], drawn[sample.probe_documents :]
    if len(probed) < sample.probe_documents:
        raise UserError(
            expected=f"at least {sample.probe_documents:,} documents",
            found=f"{sum(listing['documents']):,}",
            where=f"the {len(pool_files):,} files of pool.paths",
            todo="lower sample.probe_documents, or add files to pool.paths",
        )
    if not training:
        note("sample", "WARNING: no documents are left for warming up; probe documents are used")
        training = probed
    tokens = make_tokenizer(settings, drawn)
    provenance = Provenance(
        "sample",
        settings.model_dump(mode="json"),
        dict(zip(listing["source_file"], listing["sha256"], strict=True)),
    )
    with replacing(tokenizer) as folder:
        tokens.save_pretrained(folder)
        write_folder_provenance(folder, "tokenizer", provenance)
    write_table(files, "files", provenance, listing)
    limit = sample.sequence_length + 1
    write_table(probe_pool, "probe_pool", provenance, columns(tokens, probed, limit))
    write_table(training_pool, "training_pool", provenance, columns(tokens, training, None))


def draw(settings: SampleSettings, files: list[PoolFile]) -> tuple[list[Drawn], dict[str, list]]:
    """The documents of lowest priority, lowest first, and the row of each file for `files`.

    A document's priority is a hash of its id: the sample depends on the documents alone, not on how
    they lie in files. Ids are kept as 64-bit hashes; equal ones raise `UserError`.
    """
    wanted = settings.sample.probe_documents + settings.sample.training_documents
    heap: list[Drawn] = []
    hashes: list[np.ndarray] = []
    listing: dict[str, list] = {"source_file": [], "bytes": [], "sha256": [], "documents": []}
    progress = Progress("sample", 0, "documents")
    for number, file in enumerate(files):
        priorities = []
        for document in read_documents(file, settings.text_columns):
            priority = hash64(settings.seed, "sample", document.doc_id)
            priorities.append(priority)
            if len(heap) < wanted:
                heapq.heappush(heap, Drawn(-priority, (number, document.row), file, document))
            elif -priority > heap[0].minus_priority:
                heapq.heapreplace(heap, Drawn(-priority, (number, document.row), file, document))
            progress.advance()
        hashes.append(np.array(priorities, np.uint64))
        listing["source_file"].append(file.name)
        listing["bytes"].append(Path(file.path).stat().st_size)
        listing["sha256"].append(sha256_of(file.path))
        listing["documents"].append(len(priorities))
    progress.total = progress.done
    progress.finish()
    check_unique(settings, files, hashes)
    return sorted(heap, reverse=True), listing


def check_unique(settings: SampleSettings, files: list[PoolFile], hashes: list[np.ndarray]) -> None:
    """Two documents of one id raise `UserError` with id and both places."""
    flat = np.concatenate(hashes)
    values, counts = np.unique(flat, return_counts=True)
    if not (counts > 1).any():
        return
    twice = values[counts > 1][0]
    places = []
    for file, found in zip(files, hashes, strict=True):
        rows = set(np.flatnonzero(found == twice).tolist())
        if rows:
            for document in read_documents(file, settings.text_columns):
                if document.row in rows:
                    places.append(f"{file.path}, line {document.row + 1} (id {document.doc_id!r})")
    raise UserError(
        expected="every document id once in the pool",
        found=f"{int((counts > 1).sum()):,} ids that occur more than once, the first:",
        where=" and ".join(places[:3]),
        todo="remove the copies, or set pool.columns.id to null: ids then come from file and row",
    )


def make_tokenizer(settings: SampleSettings, drawn: list[Drawn]) -> PreTrainedTokenizerBase:
    """The tokenizer given by sample.tokenizer, else the checkpoint's, else one trained here."""
    folder = settings.sample.tokenizer or settings.checkpoint
    if folder is not None:
        return load_tokenizer(Path(folder))
    note("sample", f"training a tokenizer of {settings.sample.vocabulary_size:,} tokens")
    texts = (d.document.text for d in drawn[:TOKENIZER_TEXTS])
    return train_tokenizer(texts, settings.sample.vocabulary_size)


def columns(
    tokens: PreTrainedTokenizerBase, drawn: list[Drawn], limit: int | None
) -> dict[str, list]:
    """Columns of the probe and training pools; at most `limit` tokens per document."""
    texts = [d.document.text for d in drawn]
    return {
        "doc_id": [d.document.doc_id for d in drawn],
        "source_file": [d.file.name for d in drawn],
        "source_row": [d.document.row for d in drawn],
        "text": texts,
        "input_ids": document_tokens(tokens, texts, limit),
    }
