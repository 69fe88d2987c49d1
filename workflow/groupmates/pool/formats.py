"""Which class reads and copies which kind of pool file: the only place that tells them apart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from groupmates.pool.arrow_tables import ArrowStream, Parquet
from groupmates.pool.listing import suffix_of
from groupmates.pool.text_lines import TextLines
from groupmates.settings.config import PoolColumns


class Format(Protocol):
    """A pool file. Rows are strictly increasing positions, counted from 0."""

    def records(self, columns: PoolColumns) -> Iterator[bytes | dict[str, Any]]:
        """Every record in the file's order: a line, or the fields that `columns` names."""

    def chosen(self, rows: np.ndarray, column: str | None) -> Iterator[dict[str, Any]]:
        """The fields of these rows; a table gives a `column` alone where one is named."""

    def copy(self, rows: np.ndarray, destination: Path) -> None:
        """Write these rows unchanged, in the file's format."""


def format_of(path: str) -> Format:
    suffix = suffix_of(path)
    if suffix == ".parquet":
        return Parquet(path)
    return ArrowStream(path) if suffix == ".arrow" else TextLines(path)
