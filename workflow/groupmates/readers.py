"""Reading the files of a user: pool documents, reference examples, and rows copied unchanged.

Everything streams: memory is a line, a chunk or a Parquet row group, whatever the file's size.
Whatever is wrong with a file raises `UserError` with file and line, counted from 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from groupmates.config import PoolColumns
from groupmates.errors import UserError
from groupmates.pool import PoolFile, suffix_of

CHUNK_BYTES = 1 << 18  # read at a time; zstd makes about 1 MB of it
BATCH_ROWS = 256
ZSTD_LEVEL = 3
# Archives made with `zstd --long=31` need the largest window; others allocate what they ask for.
ZSTD_WINDOW_BYTES = 1 << 31
LABELLED = (("context", "continuation"), ("prompt", "response"))


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the pool; `row` is its line or Parquet row, counted from 0."""

    row: int
    doc_id: str
    text: str
    source: str


def read_documents(file: PoolFile, columns: PoolColumns) -> Iterator[Document]:
    """The documents of a pool file in its order; a file without any raises `UserError`.

    Without columns.id, ids are `{file.name}#{row}`. A document whose source field is absent or null
    has the source ''.
    """
    parquet = file.suffix == ".parquet"
    rows = _parquet_rows(file, columns) if parquet else _json_rows(file.path)
    row = -1
    for row, values in enumerate(rows):
        where = _place(file.path, row)
        yield Document(
            row,
            f"{file.name}#{row}" if columns.id is None else _id(values, columns.id, where),
            _text(values, columns.text, where, "pool.columns.text"),
            _source(values, columns.source),
        )
    if row < 0:
        raise _empty(file.path)


def read_reference(path: Path) -> Iterator[tuple[str, str]]:
    """(context, labelled text) of each reference example, exactly as they stand in the file.

    Rows are {context, continuation}, {prompt, response} or {text}, whose context is ''; other
    fields are ignored. The labelled text must not be blank.
    """
    if suffix_of(str(path)) == ".parquet":
        raise UserError(
            expected="reference examples in .jsonl or .jsonl.zst",
            found="a Parquet file",
            where=str(path),
            todo="convert it, or correct reference.paths",
        )
    row = -1
    for row, values in enumerate(_json_rows(str(path))):
        where = _place(str(path), row)
        for context, labelled in LABELLED:
            if context in values and labelled in values:
                if not isinstance(values[context], str):
                    raise _not_a_string(values, context, where, "reference.paths")
                yield values[context], _text(values, labelled, where, "reference.paths")
                break
        else:
            yield "", _text(values, "text", where, "reference.paths")
    if row < 0:
        raise _empty(str(path))


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
    else:
        found = _copy_lines(file, rows, destination)
    if len(rows) and rows[-1] >= found:
        raise UserError(
            expected=f"at least {int(rows[-1]) + 1:,} documents, as when the pool was scored",
            found=f"{found:,}",
            where=file.path,
            todo="bring the old file back, or delete the run's results and run snakemake again",
        )


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with _reading(str(path)), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# Copying


def _copy_lines(file: PoolFile, rows: np.ndarray, destination: Path) -> int:
    """Write the lines at `rows`; the number of lines in the file."""
    start = 0
    with destination.open("wb") as raw, _line_writer(file.suffix, raw) as output:
        for lines in _blocks(file.path):
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
    compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
    with compressor.stream_writer(raw, closefd=False) as output:
        yield output


def _copy_parquet(path: str, rows: np.ndarray, destination: Path) -> int:
    """Write the rows at `rows`, one row group for each that holds some; the file's row count."""
    with _reading(path):
        file = pq.ParquetFile(path, page_checksum_verification=True)
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
                with _reading(path):
                    table = file.read_row_group(group)
                # A mask, not `take`: that would join the chunks of a text column, at most 2 GB.
                wanted = np.zeros(stop - start, bool)
                wanted[rows[begin:end] - start] = True
                output.write_table(table.filter(pa.array(wanted)), row_group_size=stop - start)
            start = stop
    return start


# Streams of rows


def _parquet_rows(file: PoolFile, columns: PoolColumns) -> Iterator[dict[str, Any]]:
    with _reading(file.path):
        parquet = pq.ParquetFile(
            file.path, buffer_size=CHUNK_BYTES, page_checksum_verification=True
        )
    present = parquet.schema_arrow.names
    for setting, name in (("text", columns.text), ("id", columns.id)):
        if name is not None and name not in present:
            raise UserError(
                expected=f"a column {name!r}",
                found=f"the columns {present}",
                where=file.path,
                todo=f"set pool.columns.{setting} to the name of the column",
            )
    names = [n for n in dict.fromkeys((columns.text, columns.id, columns.source)) if n in present]
    batches = parquet.iter_batches(batch_size=BATCH_ROWS, columns=names)
    start = 0
    while True:
        with _reading(file.path):
            batch = next(batches, None)
        if batch is None:
            return
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise _not_utf8(error, f"{_place(file.path, start)} to {start + len(batch)}") from None
        yield from rows
        start += len(batch)


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    row = 0
    for lines in _blocks(path):
        for line in lines:
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise _not_json(line, error, _place(path, row)) from None
            if not isinstance(values, dict):
                raise UserError(
                    expected="a JSON object",
                    found=f"a JSON {type(values).__name__}: {_shown(line)}",
                    where=_place(path, row),
                    todo="write one object with a text field on each line",
                )
            yield values
            row += 1


def _blocks(path: str) -> Iterator[list[bytes]]:
    """The lines of a file without their line ends, some at a time; only `\\n` ends a line."""
    pieces: list[bytes] = []
    for chunk in _chunks(path):
        first, *others = chunk.split(b"\n")
        pieces.append(first)
        if others:
            yield [b"".join(pieces), *others[:-1]]
            pieces = others[-1:]
    if last := b"".join(pieces):
        yield [last]


def _chunks(path: str) -> Iterator[bytes]:
    """The bytes of a .jsonl, or of all frames of a .jsonl.zst.

    Frames are decompressed one by one: zstandard's stream_reader takes a truncated file for a whole
    one.
    """
    with _reading(path), open(path, "rb") as stream:
        if suffix_of(path) == ".jsonl":
            while chunk := stream.read(CHUNK_BYTES):
                yield chunk
            return
        decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW_BYTES)
        frame = None
        while chunk := stream.read(CHUNK_BYTES):
            while chunk:
                frame = frame or decompressor.decompressobj()
                yield frame.decompress(chunk)
                chunk, frame = (frame.unused_data, None) if frame.eof else (b"", frame)
        if frame is not None:
            raise EOFError("the last zstd frame is cut off")


# Checks


def _id(values: dict[str, Any], field: str, where: str) -> str:
    value = values.get(field)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise UserError(
            expected=f"an id in the field {field!r}, a string or an integer",
            found=f"{value!r:.100}" if field in values else f"the fields {list(values)}",
            where=where,
            todo="correct pool.columns.id; null makes ids from file name and row",
        )
    return str(value)


def _text(values: dict[str, Any], field: str, where: str, setting: str) -> str:
    value = values.get(field)
    if not isinstance(value, str):
        raise _not_a_string(values, field, where, setting)
    if not value or value.isspace():
        raise UserError(
            expected=f"text in the field {field!r}",
            found="an empty string" if not value else f"nothing but white space: {value!r:.40}",
            where=where,
            todo="remove the row: there is nothing to train on",
        )
    return value


def _source(values: dict[str, Any], field: str | None) -> str:
    value = None if field is None else values.get(field)
    return "" if value is None else str(value)


def _not_a_string(values: dict[str, Any], field: str, where: str, setting: str) -> UserError:
    kind = type(values.get(field)).__name__
    pairs = " or ".join(f"{{{a}, {b}}}" for a, b in LABELLED)
    fields = f" (or {pairs})" if setting == "reference.paths" else ""
    return UserError(
        expected=f"a string in the field {field!r}{fields}",
        found=f"{kind} in {field!r}" if field in values else f"the fields {list(values)}",
        where=where,
        todo=f"correct {setting}, or the row",
    )


def _not_json(line: bytes, error: orjson.JSONDecodeError, where: str) -> UserError:
    try:
        line.decode()
    except UnicodeDecodeError as undecoded:
        return _not_utf8(undecoded, where)
    return UserError(
        expected="a JSON object on every line",
        found=f"{_shown(line)} ({error})" if line.strip() else "a blank line",
        where=where,
        todo="correct or remove the line",
    )


def _not_utf8(error: UnicodeDecodeError, where: str) -> UserError:
    return UserError(
        expected="text in UTF-8",
        found=f"the byte 0x{error.object[error.start]:02x} at position {error.start + 1}",
        where=where,
        todo="convert the file to UTF-8, or remove the row",
    )


def _empty(path: str) -> UserError:
    return UserError(
        expected="at least one row",
        found="none",
        where=path,
        todo="remove the file from the paths, or make it again: its writer may have failed",
    )


def _shown(line: bytes) -> str:
    return repr(line.decode(errors="replace")[:80])


def _place(path: str, row: int) -> str:
    return f"{path}, {'row' if path.endswith('.parquet') else 'line'} {row + 1}"


@contextmanager
def _reading(path: str) -> Iterator[None]:
    """What fails inside is a missing or damaged file."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(
            expected="a file",
            found="none",
            where=path,
            todo="correct the path (relative ones start where snakemake is started) or restore it",
        ) from None
    except (OSError, EOFError, zstandard.ZstdError, pa.ArrowException) as error:
        raise UserError(
            expected="a whole and readable file",
            found=f"a damaged or unreadable one ({error})",
            where=path,
            todo="copy or make the file again; its checksum at the origin tells which",
        ) from error
