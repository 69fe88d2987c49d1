"""Texts that selectors read: of scored documents where they lie in the pool, and of the reference."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from groupmates.artefacts import store
from groupmates.errors import UserError
from groupmates.models.tokenizer import document_tokens, load_tokenizer, token_lists
from groupmates.pool.chosen_rows import chosen_texts
from groupmates.pool.damage import place
from groupmates.pool.listing import PoolFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Texts:
    """The documents of score files, by their places in the pool.

    `documents` has their id, `source_file` and `source_row`, `files` are the pool's. A sequence is the
    first `limit` tokens of the field `column`, as of the probe pool.
    """

    def __init__(
        self,
        documents: pa.Table,
        files: list[PoolFile],
        column: str,
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
    ) -> None:
        names = documents["source_file"].combine_chunks()
        self._names, self._file_N = names.dictionary.to_pylist(), names.indices.to_numpy()
        self._row_N, self._doc_ids = documents["source_row"].to_numpy(), documents["doc_id"]
        self._files = {file.name: file for file in files}
        self._column, self._tokenizer, self._limit = column, tokenizer, limit

    def named(self, number: int) -> str:
        """A document for an error: its id and where it lies."""
        path = self._files[self._names[self._file_N[number]]].path
        where = place(path, int(self._row_N[number]))
        return f"document {self._doc_ids[number].as_py()!r}, {where}"

    def sequences(self, places_n: np.ndarray) -> list[np.ndarray]:
        """The first tokens of these documents, in this order."""
        texts = [""] * len(places_n)
        for number in np.unique(self._file_N[places_n]):
            name = self._names[number]
            if name not in self._files:
                raise UserError(
                    expected=f"the pool file {name}, whose documents were scored",
                    found=f"none of that name among {len(self._files):,} pool files",
                    where="pool.paths",
                    todo="name it again in pool.paths",
                )
            here = np.flatnonzero(self._file_N[places_n] == number)
            here = here[np.argsort(self._row_N[places_n[here]])]
            rows = self._row_N[places_n[here]]
            found = chosen_texts(self._files[name], rows, self._column)
            for i, text in zip(here, found, strict=True):
                texts[i] = text
        return document_tokens(self._tokenizer, texts, self._limit)


def decoded(reference: Path, tokenizer: Path, examples: int) -> list[str]:
    """Texts of the reference examples that steer the selection; never of those held out."""
    table = store.read_table(reference, "reference", ["split", "input_ids"])
    steering = table.filter(np.array(table["split"].to_pylist()) == "selection").slice(0, examples)
    tokens = load_tokenizer(tokenizer)
    return [str(tokens.decode(ids, skip_special_tokens=True)) for ids in token_lists(steering)]
