"""Write the selected rows of one pool file: the dataset to train on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from groupmates.artefacts import store
from groupmates.artefacts.catalogue import DOCUMENT
from groupmates.artefacts.store import Provenance, replacing
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.pool.copy_rows import convert_rows, copy_rows
from groupmates.pool.damage import bytes_of
from groupmates.pool.identity import identified
from groupmates.pool.listing import PoolFile, located
from groupmates.pool.token_files import write_index, write_manifest
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import AssembleSettings, MaterialiseSettings
from groupmates.stages.dataset_card import card


def run(
    settings: MaterialiseSettings,
    *,
    pool: list[str],
    selection: Path,
    below: str = ".",
    output: Path,
) -> None:
    """Write what `selection` names of the files of a scoring shard, and in `output` what was written.

    The files lie in the dataset's folder, which is beside that of `output`, under their names below the
    folder `below`, which all names of the pool share. A file of which nothing was selected becomes an
    empty file of its format. A killed job goes on after its last file.
    """
    files = identified(located(pool), store.pool_of([selection], "select"))
    table = store.read_table(selection, "select", columns=["doc_id", "source_file", "source_row"])
    chosen, nothing = store.by_pool_file(table), table.slice(0, 0)
    provenance = Provenance.of("materialise", settings, select=selection)
    folder, end = dataset_of(output), ".parquet" * (settings.format == "parquet")
    sizes = [bytes_of(file.path) for file in files]
    with Kept(output, "dataset_shard", provenance) as kept:
        rows_of: dict[str, int] = kept.state.get("rows", {})
        done, label = len(rows_of), f"materialise {folder.name} {output.stem}"
        progress = Progress(label, sum(sizes), "bytes", sum(sizes[:done]))
        for file, size in zip(files[done:], sizes[done:], strict=True):
            name = file.name.removeprefix(f"{below}/") + end
            rows_of[name] = write(settings, file, chosen.get(file.name, nothing), folder / name)
            progress.advance(size)
            if kept.due():
                kept.save({"rows": rows_of}, {})
        progress.finish()
        store.write_json(output, "dataset_shard", provenance, {"rows": rows_of})
        kept.clear()
    note(label, f"{len(rows_of):,} files, {sum(rows_of.values()):,} rows")


def write(settings: MaterialiseSettings, file: PoolFile, ours: pa.Table, output: Path) -> int:
    """Write the selected rows of a pool file, `ours`; their number."""
    rows = ours["source_row"].to_numpy()
    with replacing(output) as temporary:
        if settings.format == "same":
            copy_rows(file, rows, temporary)
        else:
            convert_rows(file, rows, ours["doc_id"], settings.text_columns.text, temporary)
    return len(rows)


def dataset_of(record: Path) -> Path:
    """The dataset's folder, by the record of one of its shards."""
    return record.parent.with_suffix("")


def run_assemble(
    settings: AssembleSettings, *, written: list[Path], select: list[Path], output: Path
) -> None:
    """Make one dataset of what was written, and describe it in `output`.

    `written` are the records of its shards, or its tokenised parts, in pool order. They are in the
    folder of `output`'s name. Whatever else lies there goes: of an earlier selection, pool or format.
    """
    folder = output.with_suffix("")
    table = store.concatenate(select, "select", [*DOCUMENT, "n_tokens"])
    provenance = Provenance.of("assemble", settings, select=select)
    counts: dict[str, Any] = {"documents": len(table)}
    made: list[Path] = []
    if settings.format in ("same", "parquet"):
        counts["tokens"] = int(table["n_tokens"].to_numpy().sum())
        made = [file for record in written for file in files_of(record)]
    else:
        parts = [store.read_folder_json(path, "dataset_part", "part.json") for path in written]
        counts["tokens"] = sum(part["tokens"] for part in parts)
        counts["documents"] = sum(part["documents"] for part in parts)
        if settings.format == "open_lm":
            made = [folder / "manifest.jsonl"]
            counts["sequences"] = list_shards(written, parts, made[0])
        else:
            made = [folder / name for name in ("tokens.bin", "tokens.idx", "documents.parquet")]
            lengths = join(written, np.dtype(parts[0]["type"]), made[0], made[1])
            table = table.append_column("tokens", pa.array(lengths)).filter(lengths > 0)
            documents = {name: table[name] for name in (*DOCUMENT, "tokens")}
            store.write_table(made[2], "documents", provenance, documents)
            assert counts["documents"] == len(table)
    parts_of = {file for path in written if path.is_dir() for file in path.rglob("*")}
    remove_others(folder, parts_of | set(made))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    counts["bytes"] = sum(path.stat().st_size for path in files)
    names = [path.relative_to(folder).as_posix() for path in files]
    with replacing(folder / "README.md") as temporary:
        record, pool = store.table_record(select[0], "select"), store.pool_of(select, "select")
        temporary.write_text(card(settings, record, counts, names, list(pool)))
    store.write_json(output, "dataset_card", provenance, counts | {"format": settings.format})
    note("assemble", f"{folder}: " + ", ".join(f"{n:,} {what}" for what, n in counts.items()))


def files_of(record: Path) -> list[Path]:
    """The dataset's files of a shard, all of which must be there."""
    names = store.read_artefact_json(record, "dataset_shard")["rows"]
    files = [dataset_of(record) / name for name in names]
    if missing := [file for file in files if not file.exists()]:
        raise store.damaged(record, "the files that it lists", f"no {missing[0]}")
    return files


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


def join(folders: list[Path], kind: np.dtype, tokens: Path, index: Path) -> np.ndarray:
    """Write the tokens of all parts, of type `kind`, behind each other, and Megatron's index.

    Returns the tokens of each document, int32 [N]; 0 where it was left out.
    """
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
        write_index(temporary, kind, lengths[lengths > 0])
    return lengths


def remove_others(folder: Path, wanted: set[Path]) -> None:
    """Remove the files below a folder that are not wanted, and folders that are empty then."""
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder before the folder
        if path.is_file() and path not in wanted:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
