"""Reading the files of a user: pool documents and reference examples.

Everything streams: memory is a line, a chunk or a Parquet row group, whatever the file's size.
Whatever is wrong with a file raises `UserError` with file and line, counted from 1; a record that is
wrong in a whole file raises `BadRecord`, or is left out and listed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from groupmates.errors import UserError
from groupmates.pool import arrow_tables
from groupmates.pool.damage import empty, place, reading
from groupmates.pool.listing import TABLES, PoolFile, suffix_of
from groupmates.pool.opening import opened
from groupmates.pool.text_lines import blocks
from groupmates.settings.config import BadRecords, PoolColumns

LABELLED = (("context", "continuation"), ("prompt", "response"))
# The tokenizer's memory is many times the text's, and a file without line ends is one record.
LONGEST_RECORD_BYTES = 64 << 20
SHOWN = 200  # characters of what was found
MOST_REJECTS = 1_000_000  # that are listed in memory
ABSENT = object()


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the pool; `row` is its line or Parquet row, counted from 0."""

    row: int
    doc_id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is left out: why in a word or two, and the beginning of what was found."""

    row: int
    reason: str
    found: str


class BadRecord(UserError):
    """One record of a file is not as it must be."""

    def __init__(self, reason: str, **told: str) -> None:
        super().__init__(**told)
        self.reason = reason


def rejects_of(bad_records: BadRecords) -> list[Reject] | None:
    """The list for `read_documents` that the setting pool.bad_records stands for."""
    return [] if bad_records == "skip" else None


def read_documents(
    file: PoolFile, columns: PoolColumns, rejects: list[Reject] | None = None
) -> Iterator[Document]:
    """The documents of a pool file in its order; a file without any raises `UserError`.

    Bad records raise `BadRecord`, or are appended to `rejects`, where it is given. Without columns.id,
    ids are `{file.name}#{row}`. A document whose source field is absent or null has the source ''.
    """
    row, good, first = -1, 0, None
    for row, record in enumerate(_records(file, columns)):
        try:
            document = _document(file, columns, row, record)
        except BadRecord as error:
            if rejects is None:
                for _ in _records(file, columns):  # a file damaged further on has no lines to mend
                    pass
                raise BadRecord(
                    error.reason,
                    expected=error.expected,
                    found=error.found,
                    where=error.where,
                    todo=f"{error.todo}; or set pool.bad_records: skip, which lists such rows",
                ) from None
            first = first or error
            rejects.append(Reject(row, error.reason, error.found[:SHOWN]))
            if len(rejects) > MOST_REJECTS:
                raise _too_many(error, file) from None
            continue
        good += 1
        yield document
    if row < 0:
        raise empty(file.path)
    if not good:
        assert first is not None
        raise UserError(
            expected=f"a good record; {first.expected}",
            found=f"{row + 1:,} bad ones, the first: {first.found}",
            where=first.where,
            todo=f"{first.todo}; or remove the file from pool.paths",
        )


def _records(file: PoolFile, columns: PoolColumns) -> Iterator[bytes | dict[str, Any]]:
    """The lines of a file, or the fields that are read of its rows."""
    if file.suffix in TABLES:
        return arrow_tables.rows(file.path, columns.model_dump())
    return _lines(file.path)


def _document(
    file: PoolFile, columns: PoolColumns, row: int, record: bytes | dict[str, Any]
) -> Document:
    where = place(file.path, row)
    values = _object(record, where) if isinstance(record, bytes) else record
    return Document(
        row,
        f"{file.name}#{row}" if columns.id is None else _id(values, columns.id, where),
        _text(values, columns.text, where, "pool.columns.text"),
        _source(values, columns.source, where),
    )


def read_reference(path: Path) -> Iterator[tuple[str, str]]:
    """(context, labelled text) of each reference example, exactly as they stand in the file.

    Rows are {context, continuation}, {prompt, response} or {text}, whose context is ''; other
    fields are ignored. The labelled text must not be blank.
    """
    if suffix_of(str(path)) in TABLES:
        raise UserError(
            expected="reference examples in .jsonl, .jsonl.gz or .jsonl.zst",
            found=f"a {suffix_of(str(path))} file",
            where=str(path),
            todo="convert it, or correct reference.paths",
        )
    row = -1
    for row, line in enumerate(_lines(str(path))):
        where = place(str(path), row)
        values = _object(line, where)
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
    with reading(str(path)), opened(str(path)) as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def _lines(path: str) -> Iterator[bytes]:
    for lines in blocks(path, LONGEST_RECORD_BYTES):
        yield from lines


def _object(line: bytes, where: str) -> dict[str, Any]:
    """The JSON object on a line."""
    if len(line) > LONGEST_RECORD_BYTES:
        raise _too_long(f"a longer line: {_shown(line)}", where)
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _not_json(line, error, where) from None
    if not isinstance(values, dict):
        raise BadRecord(
            "no JSON object",
            expected="a JSON object",
            found=f"a JSON {type(values).__name__}: {_shown(line)}",
            where=where,
            todo="write one object with a text field on each line",
        )
    return values


def value_of(values: dict[str, Any], field: str) -> Any:
    """The value of a field, in nested objects where it is `outer.inner`; ABSENT without."""
    if field in values:
        return values[field]
    outer, dot, inner = field.partition(".")
    nested = values.get(outer) if dot else None
    return value_of(nested, inner) if isinstance(nested, dict) else ABSENT


def _id(values: dict[str, Any], field: str, where: str) -> str:
    value = value_of(values, field)
    if isinstance(value, UnicodeDecodeError):
        raise _not_utf8(value, where)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise BadRecord(
            "no id",
            expected=f"an id in the field {field!r}, a string or an integer",
            found=f"the fields {list(values)}" if value is ABSENT else f"{value!r:.100}",
            where=where,
            todo="correct pool.columns.id; null makes ids from file name and row",
        )
    return str(value)


def _text(values: dict[str, Any], field: str, where: str, setting: str) -> str:
    value = value_of(values, field)
    if isinstance(value, UnicodeDecodeError):
        raise _not_utf8(value, where)
    if not isinstance(value, str):
        raise _not_a_string(values, field, where, setting)
    if not value or value.isspace():
        raise BadRecord(
            "empty text",
            expected=f"text in the field {field!r}",
            found="an empty string" if not value else f"nothing but white space: {value!r:.40}",
            where=where,
            todo="remove the row: there is nothing to train on",
        )
    # Of a table: lines have been measured.
    if 4 * len(value) > LONGEST_RECORD_BYTES and len(value.encode()) > LONGEST_RECORD_BYTES:
        raise _too_long(f"a longer text: {value[:80]!r}", where)
    return value


def _source(values: dict[str, Any], field: str | None, where: str) -> str:
    value = ABSENT if field is None else value_of(values, field)
    if isinstance(value, UnicodeDecodeError):
        raise _not_utf8(value, where)
    unknown = value is ABSENT or value is None or isinstance(value, ValueError)
    return "" if unknown else str(value)


def _not_a_string(values: dict[str, Any], field: str, where: str, setting: str) -> BadRecord:
    value = value_of(values, field)
    pairs = " or ".join(f"{{{a}, {b}}}" for a, b in LABELLED)
    fields = f" (or {pairs})" if setting == "reference.paths" else ""
    found = f"{'null' if value is None else type(value).__name__} in {field!r}"
    return BadRecord(
        "no text",
        expected=f"a string in the field {field!r}{fields}",
        found=f"the fields {list(values)}"[:1000] if value is ABSENT else found,
        where=where,
        todo=f"correct {setting}, or the row",
    )


def _not_json(line: bytes, error: orjson.JSONDecodeError, where: str) -> BadRecord:
    try:
        line.decode()
    except UnicodeDecodeError as undecoded:
        return _not_utf8(undecoded, where)
    todo = "correct or remove the line"
    if line.startswith("\ufeff".encode()):
        todo = (
            "write the file anew without its byte order mark: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE"
        )
    elif line.strip() in (b"[", b"{"):
        todo = "if the file is one JSON value, write one object on each line: jq -c '.[]' FILE"
    return BadRecord(
        "not JSON",
        expected="a JSON object on every line",
        found=f"{_shown(line)} ({error})" if line.strip() else "a blank line",
        where=where,
        todo=todo,
    )


def _not_utf8(error: UnicodeDecodeError, where: str) -> BadRecord:
    begin = _shown(error.object[max(0, error.start - 40) :])
    return BadRecord(
        "not UTF-8",
        expected="text in UTF-8",
        found=f"the byte 0x{error.object[error.start]:02x} at position {error.start + 1}: {begin}",
        where=where,
        todo="convert the file to UTF-8, or remove the row",
    )


def _too_long(found: str, where: str) -> BadRecord:
    return BadRecord(
        "too long",
        expected=f"a record of at most {LONGEST_RECORD_BYTES:,} bytes",
        found=found,
        where=where,
        todo="split or remove the document; if the file is one JSON value, write one object on each "
        "line",
    )


def _too_many(error: BadRecord, file: PoolFile) -> UserError:
    return UserError(
        expected=f"at most {MOST_REJECTS:,} bad records in one job",
        found=f"more, the last: {error.found}",
        where=error.where,
        todo=f"{error.todo}; or remove {file.path} from pool.paths",
    )


def _shown(line: bytes) -> str:
    return repr(line[:400].decode(errors="replace")[:80])
