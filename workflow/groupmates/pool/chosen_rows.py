"""Reading the selected rows of a pool file, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from groupmates.errors import UserError
from groupmates.pool.arrow_tables import arrow_stream, as_python, field, leaf
from groupmates.pool.damage import place, reading
from groupmates.pool.documents import ABSENT, value_of
from groupmates.pool.listing import PoolFile
from groupmates.pool.opening import is_url, opened
from groupmates.pool.text_lines import CHUNK_BYTES, blocks

BATCH_ROWS = 256


def chosen_rows(
    file: PoolFile, rows: np.ndarray, column: str | None = None
) -> Iterator[dict[str, Any]]:
    """The fields of the `rows` of a pool file, strictly increasing int64 positions, in their order.

    Lines that are not wanted are not parsed, row groups without a wanted row not read. `column`, which
    may be nested as `outer.inner`, is all that a table is asked for; None: all fields. Rows past the
    end raise `UserError`.
    """
    if not len(rows):
        return
    if file.suffix == ".parquet":
        yield from _of_parquet(file.path, rows, column)
    elif file.suffix == ".arrow":
        yield from _of_arrow(file.path, rows, column)
    else:
        yield from _of_lines(file.path, rows)


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


def check_end(path: str, rows: np.ndarray, found: int) -> None:
    """That the last of the rows lies within the file's."""
    if len(rows) and rows[-1] >= found:
        raise changed(f"at least {int(rows[-1]) + 1:,} documents", f"{found:,}", path)


def changed(expected: str, found: str, where: str) -> UserError:
    return UserError(
        expected=f"{expected}, as when the pool was scored",
        found=found,
        where=where,
        todo="bring the old file back, or delete the run's results and run snakemake again",
    )


def _of_lines(path: str, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    start = 0
    for lines in blocks(path):
        first, last = np.searchsorted(rows, (start, start + len(lines)))
        for row in rows[first:last].tolist():
            try:
                values = orjson.loads(lines[row - start])
            except orjson.JSONDecodeError as error:
                raise changed("a JSON object", f"none ({error})", place(path, row)) from None
            yield values
        start += len(lines)
        if start > rows[-1]:
            return
    check_end(path, rows, start)


def _of_parquet(path: str, rows: np.ndarray, column: str | None) -> Iterator[dict[str, Any]]:
    with ExitStack() as stack:
        with reading(path):
            source = stack.enter_context(opened(path)) if is_url(path) else path
            file = stack.enter_context(
                pq.ParquetFile(source, buffer_size=CHUNK_BYTES, page_checksum_verification=True)
            )
        check_end(path, rows, file.metadata.num_rows)
        columns = None if column is None else [".".join(there(file.schema_arrow, column, path))]
        start = 0
        for group in range(file.num_row_groups):
            stop = start + file.metadata.row_group(group).num_rows
            first, last = np.searchsorted(rows, (start, stop))
            if first < last:
                wanted = _mask(rows[first:last] - start, stop - start)
                batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)
                while True:
                    with reading(path):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    ours, wanted = wanted[: len(batch)], wanted[len(batch) :]
                    yield from batch.filter(pa.array(ours)).to_pylist()
            start = stop


def _of_arrow(path: str, rows: np.ndarray, column: str | None) -> Iterator[dict[str, Any]]:
    start = 0
    with arrow_stream(path) as (schema, batches):
        outer = schema.names if column is None else [there(schema, column, path)[0]]
        for batch in batches([]):
            first, last = np.searchsorted(rows, (start, start + len(batch)))
            if first < last:
                wanted = pa.array(_mask(rows[first:last] - start, len(batch)))
                with reading(path):
                    columns = [leaf(batch, (name,), validate=True) for name in outer]
                values = [as_python(values.filter(wanted)) for values in columns]
                for row in zip(*values, strict=True):
                    yield dict(zip(outer, row, strict=True))
            start += len(batch)
    check_end(path, rows, start)


def there(schema: pa.Schema, column: str, path: str) -> tuple[str, ...]:
    """Names from the outermost to the field of a table."""
    names = field(schema, column)
    if not names:
        raise changed(f"a column {column!r}", f"the columns {schema.names}"[:1000], path)
    return names


def _mask(rows: np.ndarray, length: int) -> np.ndarray:
    wanted = np.zeros(length, bool)
    wanted[rows] = True
    return wanted
