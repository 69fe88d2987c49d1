"""Read the whole pool once, before any GPU hour: what finds the broken line in file 200 early.

Every shard by itself, then the ids of all shards together.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from groupmates.config import CheckSettings
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.pool import named
from groupmates.progress import Progress, note
from groupmates.readers import read_documents, sha256_of
from groupmates.store import Provenance, digests, read_table, write_table

LISTED = ["source_file", "bytes", "sha256", "documents"]


def run(settings: CheckSettings, *, pool: list[Path], root: Path, output: Path) -> None:
    """Check every document of `pool` (files below `root`); their sizes, digests and id hashes."""
    listing: dict[str, list] = {name: [] for name in (*LISTED, "id_hashes")}
    progress = Progress(f"check {output.stem}", sum(p.stat().st_size for p in pool), "bytes")
    for path in pool:
        file = named(path, root)
        hashes = np.fromiter(
            (hash64(0, "id", d.doc_id) for d in read_documents(file, settings.text_columns)),
            np.uint64,
        )
        listing["source_file"].append(file.name)
        listing["bytes"].append(path.stat().st_size)
        listing["sha256"].append(sha256_of(path))
        listing["documents"].append(len(hashes))
        listing["id_hashes"].append(hashes)
        progress.advance(listing["bytes"][-1])
    progress.finish()
    inputs = dict(zip(listing["source_file"], listing["sha256"], strict=True))
    provenance = Provenance("check", settings.model_dump(mode="json"), inputs)
    write_table(output, "check", provenance, listing)


def run_pool(settings: CheckSettings, *, check: list[Path], root: Path, output: Path) -> None:
    """Every document id once in the pool; the list of all files. Memory: 8 bytes a document."""
    tables = [read_table(path, "check") for path in check]
    hashes = np.concatenate([t["id_hashes"].combine_chunks().flatten().to_numpy() for t in tables])
    hashes.sort()
    twice = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if len(twice):
        raise UserError(
            expected="every document id once in the pool",
            found=f"{len(twice):,} ids that occur more than once, the first:",
            where=" and ".join(places(settings, tables, int(twice[0]), root)),
            todo="remove the copies, or set pool.columns.id to null: ids then come from file and row",
        )
    note("check", f"{len(hashes):,} documents, every id once")
    columns = {name: [value for t in tables for value in t[name].to_pylist()] for name in LISTED}
    provenance = Provenance("check", settings.model_dump(mode="json"), digests(check=check))
    write_table(output, "files", provenance, columns)


def places(settings: CheckSettings, tables: list, twice: int, root: Path) -> list[str]:
    """The first three places of the document id with this hash."""
    found: list[str] = []
    for table in tables:
        for name, hashes in zip(table["source_file"].to_pylist(), table["id_hashes"], strict=True):
            wanted = pc.equal(hashes.values, np.uint64(twice)).to_numpy(zero_copy_only=False)
            rows = set(np.flatnonzero(wanted).tolist())
            if rows and len(found) < 3:
                file = named(root / name, root)
                found += [
                    f"{file.path}, line {d.row + 1} (id {d.doc_id!r})"
                    for d in read_documents(file, settings.text_columns)
                    if d.row in rows
                ]
    return found[:3]
