"""How many of a method's documents repeat another of them, word by word.

Every document is read and hashed once, however many methods selected it. Where a method
has more than MOST documents, so many are drawn by a hash of the id, the same for all methods. A
near-duplicate whose like was not drawn goes unseen, so the share is a lower bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from groupmates.artefacts.store import read_table
from groupmates.maths.randomness import priorities
from groupmates.maths.shingles import Signatures, repeated
from groupmates.pool.listing import PoolFile
from groupmates.report.data.reading import in_files
from groupmates.report.data.texts import Ids, wanted_documents
from groupmates.settings.config import PoolColumns

MOST = 10_000  # documents of a method


@dataclass(frozen=True)
class Repeats:
    """Of `documents` of a method, the share with a near-duplicate among those before them."""

    share: float
    documents: int


def repeats(
    select: dict[str, dict[str, Path]],
    files: Sequence[PoolFile],
    columns: PoolColumns,
    most: int = MOST,
) -> dict[str, Repeats]:
    """By method, of its documents in `files`; nothing of a method that has none in them."""
    names = {file.name for file in files}
    chosen = {method: drawn(list(of.values()), names, most) for method, of in select.items()}
    wanted = {place: doc_id for ids in chosen.values() for place, doc_id in ids.items()}
    make, signatures, places = Signatures(), list[np.ndarray | None](), list[tuple[str, int]]()
    for name, row, text in wanted_documents(files, columns, wanted, "report repeats"):
        signatures.append(make.of(text))
        places.append((name, row))
    member_MD = np.array([[place in ids for place in places] for ids in chosen.values()], bool)
    counts = repeated(signatures, member_MD.reshape(len(chosen), len(places))).sum(1)
    return {
        method: Repeats(float(count / len(ids)), len(ids))
        for (method, ids), count in zip(chosen.items(), counts, strict=True)
        if ids
    }


def drawn(select: list[Path], names: set[str], most: int) -> Ids:
    """At most `most` of the selected documents in the pool files `names`, evenly by a hash."""
    found: list[tuple[int, str, int, str]] = []
    for path in select:
        table = read_table(path, "select", ["doc_id", "source_file", "source_row"])
        table = table.filter(in_files(table, names))
        columns = [table[c].to_pylist() for c in ("source_file", "source_row", "doc_id")]
        priority = priorities(0, "repeats", columns[2]).tolist()
        found = sorted([*found, *zip(priority, *columns, strict=True)])[:most]
    return {(name, row): doc_id for _, name, row, doc_id in found}
