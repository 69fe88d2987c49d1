"""Write chosen rows of a pool file: unchanged, in its own format, or as Parquet."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from groupmates.pool.arrow_tables import arrow_stream
from groupmates.pool.chosen_rows import check_end, chosen_rows, take_text
from groupmates.pool.damage import place, reading
from groupmates.pool.listing import PoolFile
from groupmates.pool.opening import is_url, opened
from groupmates.pool.text_lines import blocks

ZSTD_LEVEL = 3
GZIP_LEVEL = 6
# Of every file alike, whatever its rows hold: readers take the types of a dataset from its first file.
WRITTEN = pa.schema(
    [pa.field(name, pa.string(), nullable=False) for name in ("doc_id", "text", "fields")]
)
GROUP_BYTES = 1 << 24  # of text, in a row group of `convert_rows`


def copy_rows(file: PoolFile, rows: np.ndarray, destination: Path) -> None:
    """Write the `rows` of a pool file, strictly increasing int64 positions, in the same format.

    Lines pass through byte by byte, each with a line end; Parquet rows keep every column, the
    schema and its metadata. Equal input gives equal bytes. No rows make a valid file without any;
    rows past the end of the file raise `UserError`. Measured in MB/s of uncompressed lines, half of
    them wanted, on one of two cores that others use too: .jsonl 700 to 1,300, .jsonl.zst 75 to 145
    (zstd is the limit), .parquet 90 to 330.
    """
    assert (np.diff(rows, prepend=-1) > 0).all(), "rows must be strictly increasing positions"
    if file.suffix == ".parquet":
        found = _copy_parquet(file.path, rows, destination)
    elif file.suffix == ".arrow":
        found = _copy_arrow(file.path, rows, destination)
    else:
        found = _copy_lines(file, rows, destination)
    check_end(file.path, rows, found)


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
            others = orjson.dumps(values, default=str).decode()
            group.append((doc_id, text, others))
            size += len(text) + len(others)
            if size >= GROUP_BYTES:
                output.write_table(_table(group))
                group, size = [], 0
        if group:
            output.write_table(_table(group))


def _table(rows: list[tuple[str, str, str]]) -> pa.Table:
    columns = [pa.array(column, pa.string()) for column in zip(*rows, strict=True)]
    return pa.Table.from_arrays(columns, schema=WRITTEN)


def _copy_lines(file: PoolFile, rows: np.ndarray, destination: Path) -> int:
    """Write the lines at `rows`; the number of lines in the file."""
    start = 0
    with destination.open("wb") as raw, _line_writer(file.suffix, raw) as output:
        for lines in blocks(file.path):
            stop = start + len(lines)
            first, last = np.searchsorted(rows, (start, stop))
            wanted = np.zeros(len(lines), bool)
            wanted[rows[first:last] - start] = True
            output.write(b"".join(line + b"\n" for line in compress(lines, wanted)))
            start = stop
    return start


@contextmanager
def _line_writer(suffix: str, raw: Any) -> Iterator[Any]:
    """`raw` itself, or a stream that compresses into it as one frame."""
    if suffix == ".jsonl":
        yield raw
        return
    if suffix == ".jsonl.gz":
        # No name and no time in the header.
        with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as output:
            yield output
        return
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    with compressor.stream_writer(raw, closefd=False) as output:
        yield output


def _copy_parquet(path: str, rows: np.ndarray, destination: Path) -> int:
    """Write the rows at `rows`, one row group for each that holds some; the file's row count."""
    with reading(path):
        source = opened(path) if is_url(path) else path
        file = pq.ParquetFile(source, page_checksum_verification=True)
    shape = file.metadata
    first = shape.row_group(0) if shape.num_row_groups else None
    chunks = [first.column(i) for i in range(shape.num_columns)] if first else []
    codecs = {c.path_in_schema: c.compression.replace("UNCOMPRESSED", "NONE") for c in chunks}
    start = 0
    with pq.ParquetWriter(destination, file.schema_arrow, compression=codecs or "zstd") as output:
        for group in range(shape.num_row_groups):
            stop = start + shape.row_group(group).num_rows
            begin, end = np.searchsorted(rows, (start, stop))
            if begin < end:
                with reading(path):
                    table = file.read_row_group(group)
                # A mask, not `take`: that would join the chunks of a text column, at most 2 GB.
                wanted = np.zeros(stop - start, bool)
                wanted[rows[begin:end] - start] = True
                output.write_table(table.filter(pa.array(wanted)), row_group_size=stop - start)
            start = stop
    return start


def _copy_arrow(path: str, rows: np.ndarray, destination: Path) -> int:
    """Write the rows at `rows` to an Arrow stream, batch by batch; the stream's row count."""
    start = 0
    with (
        arrow_stream(path) as (schema, batches),
        pa.OSFile(str(destination), "wb") as raw,
        pa.ipc.new_stream(raw, schema) as output,
    ):
        for batch in batches([]):
            begin, end = np.searchsorted(rows, (start, start + len(batch)))
            if begin < end:
                wanted = np.zeros(len(batch), bool)
                wanted[rows[begin:end] - start] = True
                output.write_batch(batch.filter(pa.array(wanted)))
            start += len(batch)
    return start
