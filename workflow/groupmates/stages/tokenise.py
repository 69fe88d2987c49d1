"""Write the selected documents of some scoring shards as tokens: a part of a dataset."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groupmates.artefacts import store
from groupmates.artefacts.catalogue import DOCUMENT
from groupmates.artefacts.unfinished import Kept
from groupmates.maths.packing import window_pieces
from groupmates.maths.randomness import generator
from groupmates.models.tokenizer import largest_id, load_tokenizer, read_special_tokens
from groupmates.pool.identity import identified
from groupmates.pool.listing import located
from groupmates.pool.token_files import Stream, token_type, write_shard
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import TokeniseSettings
from groupmates.stages.selected_tokens import kept_of, read_selected


def run(
    settings: TokeniseSettings,
    *,
    pool: list[str],
    selection: list[Path],
    tokenizer: Path,
    part: str,
    output: Path,
) -> None:
    """Tokenise what `selection` names of the pool files.

    A document is its text and the end-of-text token, in pool order. open_lm: their stream is cut into
    windows, and the rest at its end is dropped. The windows are shuffled, since open_lm trains on those
    of a shard in their order. Megatron: tokens and lengths of the documents. Measured with Pythia's
    tokenizer on one of two cores that others use too: 0.75 and 0.84 million tokens a second.
    """
    table = store.concatenate(selection, "select", list(DOCUMENT))
    language = load_tokenizer(tokenizer)
    read_special_tokens(language, settings.special_tokens_in_text)
    kind = token_type(largest_id(language) + 1)
    made = store.Provenance.of("tokenise", settings, select=selection, tokenizer=tokenizer)
    provenance = made.also(part=part)
    label = f"tokenise {output.parent.name} {part}"
    with Kept(output, "dataset_part", provenance) as kept:
        files, column = (
            identified(located(pool), store.pool_of(selection, "select")),
            settings.text_columns.text,
        )
        bad_records = settings.bad_records
        read_selected(kept, files, table, column, language, kind, label, bad_records)
        stream = Stream(kept_of(kept, "tokens"))
        if settings.open_lm is not None:
            cut(kept, stream, settings, part, label)
        lengths = np.concatenate([np.load(path) for path in kept_of(kept, "lengths")])
        table = table.filter(lengths > 0)
        if left_out := len(lengths) - len(table):
            note(label, f"WARNING: {left_out:,} documents without a token are left out")
        with store.replacing(output) as folder:
            folder.mkdir()
            counts = {"documents": len(table), "tokens": len(stream), "type": kind.name}
            if settings.open_lm is None:
                with (folder / "tokens.bin").open("wb") as file:
                    stream.write(file)
                np.save(folder / "lengths.npy", lengths)
            for path in kept_of(kept, "shard"):
                path.rename(folder / path.name.removeprefix("shard-"))
            if settings.open_lm is not None:
                pieces = windows_of(table, lengths[lengths > 0], settings, part)
                store.write_table(folder / "windows.parquet", "windows", provenance, pieces)
            body = counts | {"shards": kept.state.get("shards", [])}
            (folder / "part.json").write_text(json.dumps(body, sort_keys=True) + "\n")
            store.write_folder_provenance(folder, "dataset_part", provenance)
        kept.clear()
    note(label, f"{len(table):,} documents, {len(stream):,} tokens")


def cut(
    kept: Kept,
    stream: Stream,
    settings: TokeniseSettings,
    part: str,
    label: str,
) -> None:
    """Keep the shards of the stream's windows, and their sizes as `shards` of the state."""
    assert settings.open_lm is not None
    length, most = settings.open_lm.window_tokens, settings.open_lm.windows_per_shard
    order = window_order(settings, len(stream), part)
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


def window_order(settings: TokeniseSettings, tokens: int, part: str) -> np.ndarray:
    """Numbers of the windows of a part's stream, in the order in which they are written."""
    assert settings.open_lm is not None
    random = generator(settings.seed, "tokenise", part)
    return random.permutation(tokens // settings.open_lm.window_tokens)


def windows_of(
    table: pa.Table, length_N: np.ndarray, settings: TokeniseSettings, part: str
) -> dict[str, Any]:
    """Columns of the `windows` artefact: which documents of the `table` each window has."""
    assert settings.open_lm is not None
    order, most = (
        window_order(settings, int(length_N.sum()), part),
        settings.open_lm.windows_per_shard,
    )
    place, first, tokens, document = window_pieces(
        length_N.astype(np.int64), order, settings.open_lm.window_tokens
    )
    keys = [f"{part}-{number // most:08d}-{number % most:05d}" for number in place.tolist()]
    documents = table.take(pa.array(document))
    return {"key": keys, "first": first, "tokens": tokens} | {n: documents[n] for n in DOCUMENT}
