"""Write chosen rows of a pool file: unchanged, in its own format, or as Parquet."""

from __future__ import annotations

import math
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from groupmates.errors import UserError
from groupmates.pool.chosen_rows import chosen_rows, take_text
from groupmates.pool.damage import place
from groupmates.pool.formats import format_of
from groupmates.pool.identity import verify
from groupmates.pool.listing import PoolFile

# Every file has these columns: readers take the types of a dataset from its first file.
WRITTEN = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("doc_id", "text", "fields")]
)
GROUP_BYTES = 1 << 24  # of text, in a row group of `convert_rows`


def copy_rows(file: PoolFile, rows: np.ndarray, destination: Path) -> None:
    """Write the `rows` of a pool file, strictly increasing int64 positions, in the same format.

    Lines pass through byte by byte, each with a line end; Parquet rows keep every column, the
    schema and its metadata. Equal input gives equal bytes. No rows make a valid file without any;
    rows past the end of the file raise `UserError`. Measured in MB/s of uncompressed lines, half of
    them wanted, on one of two cores that others use too: .jsonl 700 to 1,300, .jsonl.zst 110 to 170
    (zstd is the limit), .parquet 90 to 330.
    """
    assert (np.diff(rows, prepend=-1) > 0).all(), "rows must be strictly increasing positions"
    verify(file)
    format_of(file.path).copy(rows, destination)


def convert_rows(
    file: PoolFile, rows: np.ndarray, doc_ids: pa.Array, column: str, destination: Path
) -> None:
    """Write the `rows` of a pool file as Parquet: doc_id, text, and the other fields as JSON.

    `doc_ids` are those of the rows, `column` is the name of the text field. Memory is a row group,
    16 MB of text. Measured as above: .jsonl.zst 134.
    """
    ids = doc_ids.to_pylist()
    group: list[tuple[str, str, str]] = []
    size = 0
    with pq.ParquetWriter(destination, WRITTEN, compression="zstd") as output:
        for values, doc_id, row in zip(chosen_rows(file, rows), ids, rows.tolist(), strict=True):
            text = take_text(values, column, place(file.path, row))
            others = fields(values, place(file.path, row))
            group.append((doc_id, text, others))
            size += len(text) + len(others)
            if size >= GROUP_BYTES:
                output.write_table(_table(group))
                group, size = [], 0
        if group:
            output.write_table(_table(group))


def fields(values: dict[str, Any], where: str) -> str:
    """The fields of a row as JSON; a value that JSON cannot hold exactly raises `UserError`.

    Dates and decimals are their text. A number that is none (NaN) is null, as JSON knows none.
    """
    try:
        return _json(values)
    except TypeError:
        name = next(name for name, value in values.items() if not _is_json(value))
        raise UserError(
            expected="fields that JSON holds exactly, for materialise.format: parquet",
            found=f"{type(values[name]).__name__} in the field {name!r}: {values[name]!r:.80}",
            where=where,
            todo="set materialise.format to same, which keeps every column as it is; or take the "
            "column out of the pool",
        ) from None


def _json(value: Any) -> str:
    """A value as JSON; TypeError for one that JSON cannot hold."""
    written = orjson.dumps(value, default=_spelled)
    if b"null" in written and _has_infinity(value):  # which orjson writes as null
        raise TypeError
    return written.decode()


def _spelled(value: Any) -> str:
    if isinstance(value, datetime):  # of nanoseconds: pandas' own kind, which orjson does not know
        return value.isoformat()
    if isinstance(value, (Decimal, UUID)):
        return str(value)
    raise TypeError


def _has_infinity(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple)):
        return any(map(_has_infinity, value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and math.isinf(value)


def _is_json(value: Any) -> bool:
    try:
        _json(value)
    except TypeError:
        return False
    return True


def _table(rows: list[tuple[str, str, str]]) -> pa.Table:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.Table.from_arrays(columns, schema=WRITTEN)
