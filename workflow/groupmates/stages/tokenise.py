"""Write the selected documents of some scoring shards as tokens: a part of a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from groupmates.artefacts.store import (
    Provenance,
    concatenate,
    digests,
    replacing,
    write_folder_provenance,
)
from groupmates.artefacts.unfinished import Kept
from groupmates.maths.randomness import generator
from groupmates.models.tokenizer import TOKENISED_TOGETHER, document_tokens, load_tokenizer
from groupmates.pool.chosen_rows import chosen_texts
from groupmates.pool.listing import PoolFile, located
from groupmates.pool.token_files import Stream, token_type, write_shard
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import TokeniseSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXT_TOGETHER = 1 << 22  # characters: no more are tokenised at once, but for a document's own
PIECE_TOKENS = 1 << 24  # in memory before they are written to disk


def run(
    settings: TokeniseSettings,
    *,
    pool: list[str],
    root: str,
    selection: list[Path],
    tokenizer: Path,
    part: str,
    output: Path,
) -> None:
    """Tokenise what `selection` names of the pool files, which lie below the folder `root`.

    A document is its text and the end-of-text token, in pool order. open_lm: their stream is cut into
    windows, the rest at its end dropped, and the windows are shuffled, since open_lm trains on those of
    a shard in their order. Megatron: tokens and lengths of the documents. Measured with Pythia's
    tokenizer on one of two cores that others use too: 0.75 and 0.84 million tokens a second.
    """
    table = concatenate(selection, "select", ["source_file", "source_row"])
    language = load_tokenizer(tokenizer)
    kind = token_type(max(language.get_vocab().values()) + 1)
    provenance = Provenance(
        "tokenise",
        settings.model_dump(mode="json") | {"part": part},
        digests(select=selection, tokenizer=tokenizer),
    )
    label = f"tokenise {output.parent.name} {part}"
    with Kept(output, "dataset_part", provenance) as kept:
        files = located(pool, root)
        read(kept, files, table, settings.text_columns.text, language, kind, label)
        stream = Stream(kept_of(kept, "tokens"))
        if settings.open_lm is not None:
            order = generator(settings.seed, "tokenise", part)
            cut(kept, stream, settings, order, part, label)
        lengths = np.concatenate([np.load(path) for path in kept_of(kept, "lengths")])
        with replacing(output) as folder:
            folder.mkdir()
            counts = {"documents": len(lengths), "tokens": len(stream), "type": kind.name}
            if settings.open_lm is None:
                with (folder / "tokens.bin").open("wb") as file:
                    stream.write(file)
                np.save(folder / "lengths.npy", lengths)
            for path in kept_of(kept, "shard"):
                path.rename(folder / path.name.removeprefix("shard-"))
            body = counts | {"shards": kept.state.get("shards", [])}
            (folder / "part.json").write_text(json.dumps(body, sort_keys=True) + "\n")
            write_folder_provenance(folder, "dataset_part", provenance)
        kept.clear()
    note(label, f"{len(lengths):,} documents, {len(stream):,} tokens")


def kept_of(kept: Kept, kind: str) -> list[Path]:
    return [kept.file(name) for name in kept.files if name.startswith(kind)]


def read(
    kept: Kept,
    files: list[PoolFile],
    table: pa.Table,
    column: str,
    tokenizer: PreTrainedTokenizerBase,
    kind: np.dtype,
    label: str,
) -> None:
    """Keep the tokens of the selected documents and their lengths, piece by piece.

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

    for number, file in enumerate(files[first:], first):
        ours = pc.equal(table["source_file"].cast("string"), file.name)
        rows = table["source_row"].filter(ours).to_numpy()
        for texts in together(chosen_texts(file, rows[done:], column)):
            fresh += document_tokens(tokenizer, texts)
            done += len(texts)
            progress.advance(len(texts))
            if kept.due() or sum(map(len, fresh)) >= PIECE_TOKENS:
                save(number, done)
        done = 0
    if first < len(files):
        save(len(files), 0)
    progress.finish()


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


def cut(
    kept: Kept,
    stream: Stream,
    settings: TokeniseSettings,
    random: np.random.Generator,
    part: str,
    label: str,
) -> None:
    """Keep the shards of the stream's windows, and their sizes as `shards` of the state."""
    assert settings.open_lm is not None
    length, most = settings.open_lm.window_tokens, settings.open_lm.windows_per_shard
    order = random.permutation(len(stream) // length)
    shards = kept.state.get("shards", [])
    progress = Progress(label, len(order), "windows", sum(n for _, n in shards))
    for number in range(len(shards), -(-len(order) // most)):
        ours, name = order[number * most : (number + 1) * most], f"{number:08d}"
        write = partial(write_shard, windows=stream.windows(ours, length), prefix=f"{part}-{name}")
        kept.save(
            {**kept.state, "shards": [*kept.state.get("shards", []), [name, len(ours)]]},
            {f"shard-{name}.tar": write},
        )
        progress.advance(len(ours))
    progress.finish()
