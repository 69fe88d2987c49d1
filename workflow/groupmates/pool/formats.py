"""Which class reads and copies which kind of pool file: the only place that tells them apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from groupmates.errors import UserError
from groupmates.pool.arrow_tables import ArrowStream, Parquet
from groupmates.pool.damage import reading
from groupmates.pool.opening import opened
from groupmates.pool.text_lines import TextLines
from groupmates.settings.config import PoolColumns

Reader = Callable[[str], "Format"]
PLAIN = partial(TextLines, compression="none")
GZIP = partial(TextLines, compression="gzip")
ZSTD = partial(TextLines, compression="zstd")
FIRST_BYTES: dict[bytes, Reader] = {
    b"{": PLAIN,
    b"\x1f\x8b": GZIP,
    b"\x28\xb5\x2f\xfd": ZSTD,
    b"PAR1": Parquet,
    b"\xff\xff\xff\xff": ArrowStream,
    b"ARRO": ArrowStream,  # a file with a footer, which that refuses
}
NAME_ENDS: dict[str, Reader] = {
    ".gz": GZIP,
    ".zst": ZSTD,
    ".zstd": ZSTD,
    ".parquet": Parquet,
    ".arrow": ArrowStream,
}
UNKNOWN = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"PK\3\4": "zip", b"\x04\x22\x4d\x18": "lz4"}


class Format(Protocol):
    """A pool file. Rows are strictly increasing positions, counted from 0."""

    def records(self, columns: PoolColumns | None) -> Iterator[bytes | dict[str, Any]]:
        """Every record in the file's order: a line, or the fields that `columns` names (None: all)."""

    def chosen(self, rows: np.ndarray, column: str | None) -> Iterator[dict[str, Any]]:
        """The fields of these rows; a table gives a `column` alone where one is named."""

    def copy(self, rows: np.ndarray, destination: Path) -> None:
        """Write these rows unchanged, in the file's format."""


def format_of(path: str) -> Format:
    """The reader of a file, by its first bytes; by its name where they are of no known kind.

    So a damaged archive is told as one, and a file of lines may have no byte.
    """
    with reading(path), opened(path) as stream:
        start = stream.read(4).lstrip()
    for magic, program in UNKNOWN.items():
        if start.startswith(magic):
            raise UserError(
                expected="lines of JSON, plain, gzip or zstd; Parquet; or an Arrow stream",
                found=f"a file compressed with {program}",
                where=path,
                todo="decompress it, or compress it with zstd or gzip",
            )
    by_bytes = (reader for magic, reader in FIRST_BYTES.items() if start.startswith(magic))
    by_name = (reader for end, reader in NAME_ENDS.items() if path.endswith(end))
    return next(chain(by_bytes, by_name), PLAIN)(path)
