"""The records of a file of examples or questions, in any format of the pool."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from groupmates.pool.damage import empty, place
from groupmates.pool.documents import BadRecord, blank, object_of
from groupmates.pool.formats import format_of

T = TypeVar("T")


def parsed(path: str, parse: Callable[[int, dict[str, Any]], T]) -> Iterator[T]:
    """`parse(row, values)` of each record; rows count from 0, blank lines are passed over.

    A `BadRecord` of `parse` is told with the record's place. A file without any record raises
    `UserError`.
    """
    found = False
    for row, record in enumerate(format_of(path).records(None)):
        if blank(record):
            continue
        found = True
        try:
            yield parse(row, object_of(record) if isinstance(record, bytes) else record)
        except BadRecord as error:
            error.where = place(path, row)
            raise
    if not found:
        raise empty(path)
