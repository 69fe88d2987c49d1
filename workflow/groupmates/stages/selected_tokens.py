"""The tokens of selected documents, read where they lie and kept piece by piece."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from groupmates.artefacts.store import by_pool_file
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.models.tokenizer import TOKENISED_TOGETHER, document_tokens
from groupmates.pool.chosen_rows import chosen_texts
from groupmates.pool.damage import place
from groupmates.pool.listing import PoolFile
from groupmates.progress import Progress
from groupmates.settings.config import BadRecords

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_TOGETHER = 1 << 22  # characters: no more are tokenised at once, but for a document's own
PIECE_TOKENS = 1 << 24  # in memory before they are written to disk


def read_selected(
    kept: Kept,
    files: list[PoolFile],
    table: pa.Table,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    kind: np.dtype,
    label: str,
    bad_records: BadRecords | None = None,
) -> None:
    """Keep the tokens of the documents in `table`, and their lengths, in the order of the `files`.

    A document without a token but its end is a bad record: `UserError`, or of length 0. None: `table`
    has no such document, as the check found.
    An earlier attempt's `files` were read to their end, and of the next one so many `rows`.
    """
    first, done = kept.state.get("files", 0), kept.state.get("rows", 0)
    progress = Progress(label, len(table), "documents", kept.state.get("documents", 0))
    fresh: list[np.ndarray] = []

    def save(files: int, rows: int) -> None:
        tokens = np.concatenate(fresh).astype(kind) if fresh else np.empty(0, kind)
        lengths = np.array([len(document) for document in fresh], np.int32)
        pieces = {"tokens": tokens, "lengths": lengths}
        number = len(kept_of(kept, "tokens"))
        kept.save(
            {"files": files, "rows": rows, "documents": progress.done},
            {f"{k}-{number:08d}.npy": partial(np.save, arr=v) for k, v in pieces.items()},
        )
        fresh.clear()

    chosen, nothing = by_pool_file(table), table.slice(0, 0)
    for number, file in enumerate(files[first:], first):
        ours = chosen.get(file.name, nothing)
        rows = ours["source_row"].to_numpy()
        for texts in together(chosen_texts(file, rows[done:], column)):
            for i, tokens in enumerate(document_tokens(tokenizer, texts)):
                if len(tokens) == 1 and bad_records == "stop":
                    raise no_token(ours.slice(done + i, 1), file, texts[i])
                left_out = len(tokens) == 1 and bad_records == "skip"
                fresh.append(tokens[:0] if left_out else tokens)
            done += len(texts)
            progress.advance(len(texts))
            if kept.due() or sum(map(len, fresh)) >= PIECE_TOKENS:
                save(number, done)
        done = 0
    if first < len(files):
        save(len(files), 0)
    progress.finish()


def no_token(document: pa.Table, file: PoolFile, text: str) -> UserError:
    """A selected document, a row of its table, without a token by the dataset's tokenizer."""
    where = place(file.path, document["source_row"][0].as_py())
    return UserError(
        expected="a token of every selected document by materialise.tokenizer",
        found=f"{text[:80]!r}, of which the tokenizer knows no character",
        where=f"document {document['doc_id'][0].as_py()!r}, {where}",
        todo="set materialise.tokenizer to a tokenizer that falls back to bytes, or remove the row; "
        "or set pool.bad_records to skip, which samples and probes anew",
    )


def kept_of(kept: Kept, kind: str) -> list[Path]:
    """The files with `tokens` or with `lengths`, in their order."""
    return [kept.file(name) for name in kept.files if name.startswith(kind)]


def together(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts in lists, each as many as are tokenised at once."""
    block: list[str] = []
    size = 0
    for text in texts:
        if block and (len(block) == TOKENISED_TOGETHER or size + len(text) > TEXT_TOGETHER):
            yield block
            block, size = [], 0
        block.append(text)
        size += len(text)
    if block:
        yield block
