"""Draw the samples that later stages probe and train on, from the whole pool or some of its files."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from groupmates.artefacts.store import Provenance, replacing, write_folder_provenance, write_table
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models.tokenizer import (
    document_tokens,
    end_documents_with,
    load_tokenizer,
    read_special_tokens,
    tokenless,
    train_tokenizer,
)
from groupmates.pool.damage import bytes_of, place, repeated
from groupmates.pool.documents import Document, no_token, read_documents, reject, rejects_of
from groupmates.pool.identity import sha256_of
from groupmates.pool.listing import PoolFile, located
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import SampleSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    probe_pool: Path,
    training_pool: Path,
) -> None:
    """Write tokenizer, probe pool and training pool, drawn from the files of `pool`."""
    sample = settings.sample
    pool_files = located(pool)
    drawn, documents = draw(settings, pool_files)
    check_unique(drawn)
    probed, training = drawn[: sample.probe_documents], drawn[sample.probe_documents :]
    if len(probed) < sample.probe_documents:
        raise UserError(
            expected=f"at least {sample.probe_documents:,} documents",
            found=f"{documents:,}",
            where=f"the {len(pool_files):,} files of sample.paths (null: pool.paths)",
            todo="lower sample.probe_documents, or add files to sample.paths or pool.paths",
        )
    if not training:
        note("sample", "WARNING: no documents are left for warming up; probe documents are used")
        training = probed
    tokens = make_tokenizer(settings, drawn)
    end_documents_with(tokens, sample.end_of_text, given_tokenizer(settings) or tokenizer)
    read_special_tokens(tokens, sample.special_tokens_in_text)
    digests = {file.name: sha256_of(file.path) for file in pool_files}
    provenance = Provenance("sample", settings.model_dump(mode="json"), digests)
    with replacing(tokenizer) as folder:
        tokens.save_pretrained(folder)
        write_folder_provenance(folder, "tokenizer", provenance)
    limit = sample.sequence_length + 1
    write_table(probe_pool, "probe_pool", provenance, columns(tokens, probed, limit))
    write_table(training_pool, "training_pool", provenance, columns(tokens, training, None))


def draw(settings: SampleSettings, files: list[PoolFile]) -> tuple[list[Drawn], int]:
    """The documents of lowest priority, lowest first, and the number of all.

    A document's priority is a hash of its id: the sample depends on the documents alone, not on how
    they lie in files. One that would be drawn and has no token is a bad record.
    """
    wanted = settings.sample.probe_documents + settings.sample.training_documents
    folder, heap, drawn = given_tokenizer(settings), list[Drawn](), set[str]()
    without_token = None if folder is None else tokenless(folder)
    documents = rejected = 0
    sizes = [bytes_of(file.path) for file in files]
    progress = Progress("sample", sum(sizes), "bytes")
    for number, file in enumerate(files):
        rejects = rejects_of(settings.bad_records)
        for document in read_documents(file, settings.text_columns, rejects):
            priority = hash64(settings.seed, "sample", document.doc_id)
            full = len(heap) == wanted
            if full and -priority <= heap[0].minus_priority:
                documents += 1
                continue
            if document.doc_id in drawn and settings.bad_records == "skip":
                continue  # the check lists it, too
            if without_token is not None and without_token([document.text])[0]:
                reject(no_token(document), file, document.row, rejects)
                continue
            documents += 1
            drawn.add(document.doc_id)
            candidate = Drawn(-priority, (number, document.row), file, document)
            if full:
                drawn.discard(heapq.heapreplace(heap, candidate).document.doc_id)
            else:
                heapq.heappush(heap, candidate)
        rejected += len(rejects or [])
        progress.advance(sizes[number])
    progress.finish()
    if rejected:
        note("sample", f"WARNING: {rejected:,} bad records are left out; the check lists them")
    return sorted(heap, reverse=True), documents


def check_unique(drawn: list[Drawn]) -> None:
    """Two drawn documents of one id raise `UserError`; `check` looks at the whole pool."""
    for one, other in pairwise(drawn):
        if one.document.doc_id == other.document.doc_id:
            places = [place(d.file.path, d.document.row) for d in (one, other)]
            raise repeated(f"the id {one.document.doc_id!r} twice", places)


def given_tokenizer(settings: SampleSettings) -> Path | None:
    """The folder of a tokenizer that is not trained here."""
    folder = settings.sample.tokenizer or settings.checkpoint
    return None if folder is None else Path(folder)


def make_tokenizer(settings: SampleSettings, drawn: list[Drawn]) -> PreTrainedTokenizerBase:
    """The tokenizer given by sample.tokenizer, else the checkpoint's, else one trained here."""
    folder = given_tokenizer(settings)
    if folder is not None:
        return load_tokenizer(folder)
    note("sample", f"training a tokenizer of {settings.sample.vocabulary_size:,} tokens")
    texts = (d.document.text for d in drawn[:TOKENIZER_TEXTS])
    return train_tokenizer(texts, settings.sample.vocabulary_size)


def columns(
    tokens: PreTrainedTokenizerBase, drawn: list[Drawn], limit: int | None
) -> dict[str, list]:
    """Columns of the probe and training pools; at most `limit` tokens per document."""
    texts = [d.document.text for d in drawn]
    progress = Progress("sample tokens", len(texts), "documents")
    found: dict[str, list] = {
        "doc_id": [d.document.doc_id for d in drawn],
        "source_file": [d.file.name for d in drawn],
        "source_row": [d.document.row for d in drawn],
        "text": texts,
        "input_ids": document_tokens(tokens, texts, limit),
    }
    progress.advance(len(texts))
    progress.finish()
    return found
