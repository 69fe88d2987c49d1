"""Reading the files of a user: pool documents and reference examples.

Everything streams: memory is a line, a chunk or a Parquet row group, whatever the file's size.
Whatever is wrong with a file raises `UserError` with file and line, counted from 1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq

from groupmates.config import PoolColumns
from groupmates.errors import UserError
from groupmates.lines import CHUNK_BYTES, blocks, empty, place, reading
from groupmates.pool import PoolFile, suffix_of

BATCH_ROWS = 256
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
        where = place(file.path, row)
        yield Document(
            row,
            f"{file.name}#{row}" if columns.id is None else _id(values, columns.id, where),
            _text(values, columns.text, where, "pool.columns.text"),
            _source(values, columns.source),
        )
    if row < 0:
        raise empty(file.path)


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
        where = place(str(path), row)
        for context, labelled in LABELLED:
            if context in values and labelled in values:
                if not isinstance(values[context], str):
                    raise _not_a_string(values, context, where, "reference.paths")
                yield values[context], _text(values, labelled, where, "reference.paths")
                break
        else:
            yield "", _text(values, "text", where, "reference.paths")
    if row < 0:
        raise empty(str(path))


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with reading(str(path)), open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parquet_rows(file: PoolFile, columns: PoolColumns) -> Iterator[dict[str, Any]]:
    with reading(file.path):
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
        with reading(file.path):
            batch = next(batches, None)
        if batch is None:
            return
        try:
            rows = batch.to_pylist()
        except UnicodeDecodeError as error:
            raise _not_utf8(error, f"{place(file.path, start)} to {start + len(batch)}") from None
        yield from rows
        start += len(batch)


def _json_rows(path: str) -> Iterator[dict[str, Any]]:
    row = 0
    for lines in blocks(path):
        for line in lines:
            try:
                values = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise _not_json(line, error, place(path, row)) from None
            if not isinstance(values, dict):
                raise UserError(
                    expected="a JSON object",
                    found=f"a JSON {type(values).__name__}: {_shown(line)}",
                    where=place(path, row),
                    todo="write one object with a text field on each line",
                )
            yield values
            row += 1


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


def _shown(line: bytes) -> str:
    return repr(line.decode(errors="replace")[:80])
