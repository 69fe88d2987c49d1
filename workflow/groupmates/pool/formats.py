"""Which class reads and copies which kind of pool file: the only place that tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from groupmates.errors import UserError
from groupmates.pool.arrow_tables import ArrowStream, Parquet
from groupmates.pool.damage import reading
from groupmates.pool.listing import TABLES
from groupmates.pool.opening import opened
from groupmates.pool.text_lines import Compression, TextLines
from groupmates.settings.config import PoolColumns

GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
UNKNOWN = {b"BZh": "bzip2", b"\xfd7zX": "xz", b"PK\3\4": "zip", b"\x04\x22\x4d\x18": "lz4"}
COMPRESSED_NAMES: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd", ".zstd": "zstd"}


class Format(Protocol):
    """A pool file. Rows are strictly increasing positions, counted from 0."""

    def records(self, columns: PoolColumns | None) -> Iterator[bytes | dict[str, Any]]:
        """Every record in the file's order: a line, or the fields that `columns` names (None: all)."""

    def chosen(self, rows: np.ndarray, column: str | None) -> Iterator[dict[str, Any]]:
        """The fields of these rows; a table gives a `column` alone where one is named."""

    def copy(self, rows: np.ndarray, destination: Path) -> None:
        """Write these rows unchanged, in the file's format."""


def format_of(path: str) -> Format:
    """The reader of a file: of a table by its name or first bytes, else of lines."""
    with reading(path), opened(path) as stream:
        start = stream.read(4)
        if not start and path.endswith(tuple(COMPRESSED_NAMES)):
            raise EOFError("no byte, not even of an empty archive")
    if path.endswith(".arrow"):
        return ArrowStream(path)
    if path.endswith(TABLES) or start == PARQUET:
        return Parquet(path)
    return TextLines(path, compression(path, start))


def compression(path: str, start: bytes) -> Compression:
    """How lines are compressed, by the first bytes of their file.

    Where these are neither of a compressed file nor of JSON, the name counts: a damaged
    archive is told as one.
    """
    if start.startswith(GZIP):
        return "gzip"
    if start == ZSTD:
        return "zstd"
    for magic, kind in UNKNOWN.items():
        if start.startswith(magic):
            raise UserError(
                expected="lines of JSON, plain, gzip or zstd; Parquet; or an Arrow stream",
                found=f"a file compressed with {kind}",
                where=path,
                todo="decompress it, or compress it with zstd or gzip",
            )
    if start.lstrip()[:1] == b"{":
        return "none"
    return next((kind for end, kind in COMPRESSED_NAMES.items() if path.endswith(end)), "none")
