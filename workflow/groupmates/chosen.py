"""Reading the selected rows of a pool file, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from groupmates.errors import UserError
from groupmates.lines import CHUNK_BYTES, blocks, place, reading
from groupmates.pool import PoolFile

BATCH_ROWS = 256


def chosen_rows(
    file: PoolFile, rows: np.ndarray, columns: list[str] | None = None
) -> Iterator[dict[str, Any]]:
    """The fields of the `rows` of a pool file, strictly increasing int64 positions, in their order.

    Lines that are not wanted are not parsed, row groups without a wanted row not read. `columns`
    are those that a Parquet file is asked for; None: all. Rows past the end raise `UserError`.
    """
    if not len(rows):
        return
    parquet = file.suffix == ".parquet"
    yield from _of_parquet(file.path, rows, columns) if parquet else _of_lines(file.path, rows)


def chosen_texts(file: PoolFile, rows: np.ndarray, column: str) -> Iterator[str]:
    """The text of the `rows` of a pool file."""
    for row, values in zip(rows, chosen_rows(file, rows, [column]), strict=True):
        yield text_of(values, column, place(file.path, int(row)))


def text_of(values: dict[str, Any], column: str, where: str) -> str:
    text = values.get(column)
    if not isinstance(text, str):
        raise changed(f"a string in the field {column!r}", type(text).__name__, where)
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


def _of_parquet(path: str, rows: np.ndarray, columns: list[str] | None) -> Iterator[dict[str, Any]]:
    with reading(path):
        file = pq.ParquetFile(path, buffer_size=CHUNK_BYTES, page_checksum_verification=True)
    check_end(path, rows, file.metadata.num_rows)
    start = 0
    for group in range(file.num_row_groups):
        stop = start + file.metadata.row_group(group).num_rows
        first, last = np.searchsorted(rows, (start, stop))
        if first < last:
            wanted = np.zeros(stop - start, bool)
            wanted[rows[first:last] - start] = True
            batches = file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns)
            while True:
                with reading(path):
                    batch = next(batches, None)
                if batch is None:
                    break
                ours, wanted = wanted[: len(batch)], wanted[len(batch) :]
                yield from batch.filter(pa.array(ours)).to_pylist()
        start = stop
