"""Write the selected rows of one pool file: the dataset to train on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from groupmates.artefacts import store
from groupmates.artefacts.store import Provenance, replacing
from groupmates.errors import UserError
from groupmates.pool.copy_rows import convert_rows, copy_rows
from groupmates.pool.damage import bytes_of
from groupmates.pool.identity import identified
from groupmates.pool.listing import located
from groupmates.pool.token_files import write_index, write_manifest
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import AssembleSettings, MaterialiseSettings


def run(settings: MaterialiseSettings, *, pool: str, selection: Path, output: Path) -> None:
    """Write what `selection` names of the pool file `pool`.

    `selection` may hold other files of the same shard too. A file of which nothing was selected
    becomes an empty file of its format.
    """
    (file,) = identified(located([pool]), store.pool_of([selection], "select"))
    name, size = file.name, bytes_of(file.path)
    table = store.read_table(selection, "select", columns=["doc_id", "source_file", "source_row"])
    ours = table.filter(pc.equal(table["source_file"].cast("string"), name))
    rows = ours["source_row"].to_numpy()
    progress = Progress(f"materialise {name}", size, "bytes")
    with replacing(output) as temporary:
        if settings.format == "same":
            copy_rows(file, rows, temporary)
        else:
            convert_rows(file, rows, ours["doc_id"], settings.text_columns.text, temporary)
    progress.advance(size)
    progress.finish()
    note("materialise", f"{name}: {len(rows):,} rows")


def run_assemble(
    settings: AssembleSettings, *, written: list[Path], select: list[Path], output: Path
) -> None:
    """Make one dataset of what was written, and describe it in `output`.

    `written` are the files of the dataset, or its tokenised parts, in pool order, in the folder of
    `output`'s name. Whatever else lies there goes: of an earlier selection, pool or format.
    """
    folder = output.with_suffix("")
    table = store.concatenate(select, "select", ["n_tokens"])
    counts: dict[str, Any] = {"documents": len(table)}
    made: list[Path] = []
    if settings.format in ("same", "parquet"):
        counts["tokens"] = int(table["n_tokens"].to_numpy().sum())
    else:
        parts = [store.read_folder_json(path, "dataset_part", "part.json") for path in written]
        counts["tokens"] = sum(part["tokens"] for part in parts)
        assert counts["documents"] == sum(part["documents"] for part in parts)
        if settings.format == "open_lm":
            made = [folder / "manifest.jsonl"]
            counts["sequences"] = list_shards(written, parts, made[0])
        else:
            made = [folder / "tokens.bin", folder / "tokens.idx"]
            join(written, np.dtype(parts[0]["type"]), *made)
    keep = {file for path in written for file in (path.rglob("*") if path.is_dir() else [path])}
    remove_others(folder, keep | set(made))
    provenance = Provenance.of("assemble", settings, select=select)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    counts["bytes"] = sum(path.stat().st_size for path in files)
    store.write_json(output, "dataset_card", provenance, counts | {"format": settings.format})
    note("assemble", f"{folder}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))


def list_shards(folders: list[Path], parts: list[dict[str, Any]], output: Path) -> int:
    """Write the manifest of open_lm; the number of windows."""
    shards = [
        (f"{folder.name}/{name}", windows)
        for folder, part in zip(folders, parts, strict=True)
        for name, windows in part["shards"]
    ]
    if not shards:
        raise UserError(
            expected="a part of the selection that fills a window of materialise.open_lm.window_tokens",
            found=f"parts of at most {max(part['tokens'] for part in parts):,} tokens",
            where=str(output.parent),
            todo="raise materialise.shards_per_job or select.budget, or lower window_tokens",
        )
    with replacing(output) as temporary:
        write_manifest(temporary, shards)
    return sum(windows for _, windows in shards)


def join(folders: list[Path], kind: np.dtype, tokens: Path, index: Path) -> None:
    """Write the tokens of all parts, of type `kind`, behind each other, and Megatron's index."""
    size = sum((folder / "tokens.bin").stat().st_size for folder in folders)
    progress = Progress(f"assemble {tokens.parent.name}", size, "bytes")
    with replacing(tokens) as temporary, temporary.open("wb") as output:
        for folder in folders:
            with (folder / "tokens.bin").open("rb") as part:
                shutil.copyfileobj(part, output, 1 << 24)
                progress.advance(part.tell())
    progress.finish()
    lengths = np.concatenate([np.load(folder / "lengths.npy") for folder in folders])
    with replacing(index) as temporary:
        write_index(temporary, kind, lengths)


def remove_others(folder: Path, wanted: set[Path]) -> None:
    """Remove the files below a folder that are not wanted, and folders that are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_file() and path not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
