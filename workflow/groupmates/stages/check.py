"""Read the whole pool once, before any GPU hour: what finds the broken line in file 200 early.

Every shard by itself, then the ids and the bad records of all shards together.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from operator import attrgetter, itemgetter
from pathlib import Path

import numpy as np
import pyarrow.compute as pc

from groupmates.artefacts.store import Provenance, read_table, write_table
from groupmates.errors import UserError
from groupmates.formatting import plural
from groupmates.maths.randomness import hash64
from groupmates.models.tokenizer import tokenless
from groupmates.pool.damage import bytes_of, place, repeated
from groupmates.pool.documents import (
    REPEATED,
    read_documents,
    rejects_of,
    tokenless_rows,
    with_tokens,
)
from groupmates.pool.identity import sha256_of
from groupmates.pool.listing import PoolFile, located
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import CheckPoolSettings, CheckSettings

LISTED = ["source_file", "bytes", "sha256", "documents", "rejected"]


def run(
    settings: CheckSettings, *, pool: list[str], tokenizer: Path | None = None, output: Path
) -> None:
    """Check every document of the files `pool`; their sizes, digests and id hashes.

    With `tokenizer`, the folder of a given one, a document without a token is a bad record too.
    """
    test = None if tokenizer is None else tokenless(tokenizer)
    listing: dict[str, list] = {name: [] for name in (*LISTED, "id_hashes", "rejects")}
    files = located(pool)
    progress = Progress(f"check {output.stem}", sum(bytes_of(f.path) for f in files), "bytes")
    for file in files:
        rejects = rejects_of(settings.bad_records)
        documents = read_documents(file, settings.text_columns, rejects)
        if test is not None:
            documents = with_tokens(documents, file, test, rejects)
        hashes = np.fromiter((hash64(0, "id", d.doc_id) for d in documents), np.uint64)
        listing["source_file"].append(file.name)
        listing["bytes"].append(bytes_of(file.path))
        listing["sha256"].append(sha256_of(file.path))
        listing["documents"].append(len(hashes))
        listing["rejected"].append(len(rejects or []))
        listing["id_hashes"].append(hashes)
        in_order = sorted(rejects or [], key=attrgetter("row"))
        listing["rejects"].append([asdict(reject) for reject in in_order])
        if not len(hashes):
            note("check", f"WARNING: {file.path} has no document")
        progress.advance(listing["bytes"][-1])
    progress.finish()
    inputs = dict(zip(listing["source_file"], listing["sha256"], strict=True))
    if tokenizer is not None:
        inputs |= {p.name: sha256_of(p) for p in sorted(tokenizer.glob("tokenizer*"))}
    provenance = Provenance("check", settings.model_dump(mode="json"), inputs)
    write_table(output, "check", provenance, listing)


def run_pool(
    settings: CheckPoolSettings, *, pool: list[str], check: list[Path], output: Path, rejects: Path
) -> None:
    """Every document id once in the pool; the list of all files, and that of all bad records.

    Memory: 8 bytes a document, and the bad records.
    """
    tables = [read_table(path, "check") for path in check]
    files = [row for t in tables for row in t.drop_columns("id_hashes").to_pylist()]
    by_name = {file.name: file for file in located(pool)}
    hashes = np.concatenate([t["id_hashes"].combine_chunks().flatten().to_numpy() for t in tables])
    if not len(hashes):
        raise UserError(
            expected="at least one document",
            found=f"none in {plural(len(files), 'file')}",
            where="pool.paths",
            todo="name files with documents",
        )
    later = later_ones(hashes)
    if len(later) and settings.bad_records == "stop":
        twice = np.unique(hashes[later])
        found = f"{len(twice):,} ids that occur more than once, the first:"
        raise repeated(found, places(settings, tables, int(twice[0]), by_name))
    leave_out(files, later)
    check_share(settings, files, by_name)
    note("check", f"{len(hashes) - len(later):,} documents, every id once")
    provenance = Provenance.of("check", settings, check=check)
    left_out = [(file["source_file"], reject) for file in files for reject in file["rejects"]]
    listing = {
        "source_file": [name for name, _ in left_out],
        "source_row": [reject["row"] for _, reject in left_out],
        "reason": [reject["reason"] for _, reject in left_out],
        "found": [reject["found"] for _, reject in left_out],
    }
    write_table(rejects, "rejects", provenance, listing)
    columns = {name: [file[name] for file in files] for name in LISTED}
    write_table(output, "files", provenance, columns)


def later_ones(hashes: np.ndarray) -> np.ndarray:
    """Places of documents whose id an earlier document of the pool has; ascending, int64."""
    order = np.argsort(hashes, kind="stable")  # of equal ids, the first in the pool comes first
    ordered = hashes[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])


def leave_out(files: list[dict], later: np.ndarray) -> None:
    """Add documents, by their places among all good ones, to the bad records of their files."""
    ends = np.cumsum([file["documents"] for file in files])
    for number in np.unique(np.searchsorted(ends, later, side="right")).tolist():
        file = files[number]
        first = int(ends[number]) - file["documents"]
        ours = later[(later >= first) & (later < ends[number])] - first
        bad = [reject["row"] for reject in file["rejects"]]
        good = np.setdiff1d(np.arange(file["documents"] + len(bad)), bad)
        again = [{"row": row, "reason": REPEATED, "found": ""} for row in good[ours].tolist()]
        file["rejects"] = sorted([*file["rejects"], *again], key=itemgetter("row"))
        file["documents"] -= len(again)
        file["rejected"] += len(again)


def check_share(
    settings: CheckPoolSettings, files: list[dict], by_name: dict[str, PoolFile]
) -> None:
    """No more than the allowed share of the pool's records is bad."""
    bad = sum(file["rejected"] for file in files)
    if not bad:
        return
    records = bad + sum(file["documents"] for file in files)
    reasons = Counter(reject["reason"] for file in files for reject in file["rejects"])
    told = ", ".join(f"{count:,} {reason}" for reason, count in reasons.most_common())
    if bad > settings.max_bad_share * records:
        worst = max(files, key=lambda file: file["rejected"])
        path, first = by_name[worst["source_file"]].path, worst["rejects"][0]
        raise UserError(
            expected=f"at most {settings.max_bad_share:.2%} bad records (pool.max_bad_share)",
            found=f"{bad:,} of {records:,}, {bad / records:.2%}: {told}",
            where=f"{worst['rejected']:,} in {path}, the first of them "
            f"{place(path, first['row'])}: {first['found']}",
            todo="mend the files or correct pool.columns; or raise pool.max_bad_share: "
            "check/rejects.parquet then lists every one",
        )
    left_out = f"{bad:,} of {records:,} records are left out: {told}"
    note("check", f"WARNING: {left_out}; see rejects.parquet")


def places(
    settings: CheckPoolSettings, tables: list, twice: int, by_name: dict[str, PoolFile]
) -> list[str]:
    """The first three places of the document id with this hash."""
    found: list[str] = []
    for table in tables:
        listed = (
            table["source_file"].to_pylist(),
            table["id_hashes"],
            table["rejects"].to_pylist(),
        )
        for name, hashes, left_out in zip(*listed, strict=True):
            wanted = pc.equal(hashes.values, np.uint64(twice)).to_numpy(zero_copy_only=False)
            numbers = set(np.flatnonzero(wanted).tolist())
            if numbers and len(found) < 3:
                file = by_name[name]
                rejects = rejects_of(settings.bad_records)
                without = tokenless_rows(left_out)
                documents = read_documents(file, settings.text_columns, rejects, without)
                found += [
                    f"{place(file.path, d.row)} (id {d.doc_id!r})"
                    for number, d in enumerate(documents)
                    if number in numbers
                ]
    return found[:3]
