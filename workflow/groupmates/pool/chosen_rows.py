"""Reading the selected rows of a pool file, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from groupmates.pool.damage import changed, place
from groupmates.pool.documents import ABSENT, value_of
from groupmates.pool.formats import format_of
from groupmates.pool.identity import verify
from groupmates.pool.listing import PoolFile


def chosen_rows(
    file: PoolFile, rows: np.ndarray, column: str | None = None
) -> Iterator[dict[str, Any]]:
    """The fields of the `rows` of a pool file, strictly increasing int64 positions, in their order.

    Lines that are not wanted are not parsed, row groups without a wanted row not read. `column`, which
    may be nested as `outer.inner`, is all that a table is asked for; None: all fields. Rows past the
    end raise `UserError`.
    """
    if len(rows):
        verify(file)
        yield from format_of(file.path).chosen(rows, column)


def chosen_texts(file: PoolFile, rows: np.ndarray, column: str) -> Iterator[str]:
    """The text of the `rows` of a pool file."""
    for row, values in zip(rows, chosen_rows(file, rows, column), strict=True):
        yield text_of(values, column, place(file.path, int(row)))


def text_of(values: dict[str, Any], column: str, where: str) -> str:
    text = value_of(values, column)
    if not isinstance(text, str):
        found = "none" if text is ABSENT else type(text).__name__
        raise changed(f"a string in the field {column!r}", found, where)
    return text


def take_text(values: dict[str, Any], column: str, where: str) -> str:
    """The text of a row, which is no longer among its fields then."""
    text = text_of(values, column, where)
    while column not in values:
        outer, _, column = column.partition(".")
        values = values[outer]
    del values[column]
    return text
