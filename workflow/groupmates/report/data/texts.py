"""What documents say: excerpts of pool files, within a bound on what is read, and telling words."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.pool.documents import read_documents
from groupmates.pool.listing import PoolFile
from groupmates.pool.opening import size_of
from groupmates.progress import Progress
from groupmates.report.data.survey import Documents
from groupmates.settings.config import PoolColumns

MOST_LETTERS = 2000  # of a document that are kept
WORD = re.compile(r"[^\W\d_]{3,}")
LEAST_SHARE = 0.1  # of a cluster's documents that hold a word which tells of it
MOST_SHARE = 0.15  # of all documents that hold it
LEAST_READ = 5  # documents of a cluster, before words tell of it

Ids = Mapping[tuple[str, int], str]  # (pool file, row) -> id of the document
Texts = Mapping[tuple[str, int], str]  # (pool file, row) -> beginning of the document


def readable(files: Iterable[PoolFile], most_bytes: float) -> list[PoolFile]:
    """Files that are there, drawn at random while they add up to at most `most_bytes`."""
    chosen, total = [], 0
    for file in sorted(files, key=lambda f: hash64(0, "report", f.name)):
        try:
            total += size_of(file.path)
        except (FileNotFoundError, UserError):  # gone, or out of reach
            continue
        if total > most_bytes:
            break
        chosen.append(file)
    return chosen


def read_texts(files: Sequence[PoolFile], columns: PoolColumns, documents: Documents) -> Texts:
    """The beginnings of those `documents` that are in `files`."""
    names, rows, ids = (documents[c].to_pylist() for c in ("source_file", "source_row", "doc_id"))
    wanted = dict(zip(zip(names, rows, strict=True), ids, strict=True))
    found = wanted_documents(files, columns, wanted, "report texts")
    return {(name, row): text[:MOST_LETTERS] for name, row, text in found}


def wanted_documents(
    files: Sequence[PoolFile],
    columns: PoolColumns,
    wanted: Ids,
    label: str,
) -> Iterator[tuple[str, int, str]]:
    """(pool file, row, whole text) of the documents `wanted`, in their order in `files`."""
    of_file: dict[str, dict[int, str]] = {}
    for (name, row), doc_id in wanted.items():
        of_file.setdefault(name, {})[row] = doc_id
    asked = [file for file in files if file.name in of_file]
    for file in Progress(label, len(asked), "pool files").over(asked):
        rows = of_file[file.name]
        last = max(rows)
        # Records that were left out are left out here, too.
        for document in read_documents(file, columns, rejects=[]):
            if document.row in rows:
                if document.doc_id != rows[document.row]:
                    raise _changed(file, document.row, rows[document.row], document.doc_id)
                yield file.name, document.row, document.text
            if document.row == last:
                break
        else:
            raise _changed(file, last, rows[last], "the end of the file")


def _changed(file: PoolFile, row: int, expected: str, found: str) -> UserError:
    return UserError(
        expected=f"document {expected!r} in row {row}, counted from 0, as when it was scored",
        found=found,
        where=file.path,
        todo="restore the file, or run snakemake again with the changed pool: it is scored anew",
    )


def telling_words(
    texts: Sequence[str], clusters: Sequence[int], count: int = 4
) -> dict[int, list[str]]:
    """cluster -> words that many of its documents hold and few others do, most telling first.

    A word's weight is p log(p / q)^2, p its share of the cluster's documents, q that of all.
    """
    everywhere: Counter[str] = Counter()
    within: dict[int, Counter[str]] = {}
    documents = Counter(clusters)
    for text, cluster in zip(texts, clusters, strict=True):
        words = set(WORD.findall(text.lower()))
        everywhere.update(words)
        within.setdefault(cluster, Counter()).update(words)

    found = {}
    for cluster, held in within.items():
        weights = []
        for word, n in held.items():
            p, q = n / documents[cluster], everywhere[word] / len(texts)
            if p >= max(LEAST_SHARE, q) and q <= MOST_SHARE:
                weights.append((p * math.log(p / q) ** 2, word))
        if documents[cluster] >= LEAST_READ:
            weights.sort(key=lambda weighed: (-weighed[0], weighed[1]))
            found[cluster] = [word for _, word in weights[:count]]
    return found
