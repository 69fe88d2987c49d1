"""Tokenise the selected documents of some scoring shards for pretraining: one flat file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from groupmates.artefacts import store
from groupmates.artefacts.catalogue import DOCUMENT
from groupmates.artefacts.unfinished import Kept
from groupmates.maths.randomness import generator
from groupmates.models.tokenizer import largest_id, load_tokenizer
from groupmates.pool.identity import identified
from groupmates.pool.listing import located
from groupmates.pool.token_files import Stream, token_type
from groupmates.pool.token_windows import DOCUMENTS, PART, TOKENS, write_tokens
from groupmates.progress import note
from groupmates.settings.per_stage import PretrainTokensSettings
from groupmates.stages.selected_tokens import kept_of, read_selected

PIECE_DOCUMENTS = 1024  # that are written at once


def run(
    settings: PretrainTokensSettings,
    *,
    pool: list[str],
    selection: list[Path],
    tokenizer: Path,
    part: str,
    output: Path,
) -> None:
    """Tokenise what `selection` names of the pool files; the documents lie in a random order.

    A window spans neighbours. In pool order these may be pages of one site, which a model would learn
    to continue from each other.
    """
    table = store.concatenate(selection, "select", list(DOCUMENT))
    language = load_tokenizer(tokenizer)
    kind = token_type(largest_id(language) + 1)
    made = store.Provenance.of("pretrain-tokens", settings, select=selection, tokenizer=tokenizer)
    provenance = made.also(part=part)
    label = f"pretrain {output.parents[1].name} tokens {part}"
    with Kept(output, "pretrain_tokens", provenance) as kept:
        files = identified(located(pool), store.pool_of(selection, "select"))
        column = settings.text_columns.text
        read_selected(kept, files, table, column, language, kind, label)
        stream = Stream(kept_of(kept, "tokens"))
        length_N = np.concatenate([np.load(path) for path in kept_of(kept, "lengths")])
        order_N = generator(settings.seed, "pretrain-tokens", part).permutation(len(length_N))
        counts = {"documents": len(table), "tokens": len(stream), "largest_id": 0}
        with store.replacing(output) as folder:
            folder.mkdir()

            def counted(pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
                for piece in pieces:
                    counts["largest_id"] = max(counts["largest_id"], int(piece.max()))
                    yield piece

            pieces = counted(in_order(stream, length_N, order_N))
            write_tokens(folder / TOKENS, kind, len(stream), pieces)
            columns = {name: table[name].take(order_N) for name in DOCUMENT}
            columns["tokens"] = length_N[order_N].astype(np.int64)
            store.write_table(folder / DOCUMENTS, "pretrain_documents", provenance, columns)
            (folder / PART).write_text(json.dumps(counts, sort_keys=True) + "\n")
            store.write_folder_provenance(folder, "pretrain_tokens", provenance)
        kept.clear()
    note(label, f"{len(table):,} documents, {len(stream):,} tokens")


def in_order(stream: Stream, length_N: np.ndarray, order_N: np.ndarray) -> Iterator[np.ndarray]:
    """The tokens of documents, which lie behind each other in the stream, in another order."""
    start_N = np.cumsum(length_N, dtype=np.int64) - length_N
    for first in range(0, len(order_N), PIECE_DOCUMENTS):
        here = order_N[first : first + PIECE_DOCUMENTS].tolist()
        yield np.concatenate([stream.window(int(start_N[i]), int(length_N[i])) for i in here])
