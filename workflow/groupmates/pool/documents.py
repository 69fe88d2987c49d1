"""Reading the documents of a pool.

Everything streams: memory is a line, a chunk or a Parquet row group, whatever the file's size.
Whatever is wrong with a file raises `UserError` with file and line, counted from 1. A record that is
wrong in a whole file raises `BadRecord`, or is left out and listed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

from groupmates.errors import UserError
from groupmates.pool import text_lines
from groupmates.pool.damage import place
from groupmates.pool.formats import format_of
from groupmates.pool.identity import verify
from groupmates.pool.listing import PoolFile
from groupmates.settings.config import BadRecords, PoolColumns

# Fields of a reference example: what is given, and what should be predicted after it.
PAIRS = (("context", "continuation"), ("prompt", "response"))
SHOWN = 200  # characters of what was found
TESTED_TOGETHER = 1000  # texts that are looked at for tokens at once
NO_TOKEN = "no token"  # the reason of a reject that only a tokenizer can find
MOST_REJECTS = 1_000_000  # that are listed in memory
REPEATED = "id of an earlier document"  # why a record is left out
ABSENT = object()


@dataclass(frozen=True, slots=True)
class Document:
    """One document of the pool; `row` is its line or Parquet row, counted from 0."""

    row: int
    doc_id: str
    text: str
    source: str


def named(file: PoolFile, document: Document) -> str:
    """A document for an error: its id and where it lies."""
    return f"document {document.doc_id!r}, {place(file.path, document.row)}"


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that is left out: why in a word or two, and the beginning of what was found."""

    row: int
    reason: str
    found: str


class BadRecord(UserError):
    """One record of a file is not as it must be; who has read it knows where it is."""

    def __init__(self, reason: str, expected: str, found: str, todo: str) -> None:
        super().__init__(expected=expected, found=found, where="", todo=todo)
        self.reason = reason


def rejects_of(bad_records: BadRecords) -> list[Reject] | None:
    """The list for `read_documents` that the setting pool.bad_records stands for."""
    return [] if bad_records == "skip" else None


def read_documents(
    file: PoolFile,
    columns: PoolColumns,
    rejects: list[Reject] | None = None,
    left_out: Collection[int] = (),
) -> Iterator[Document]:
    """The documents of a pool file in its order, none of an empty one or of a blank line.

    Bad records raise `BadRecord`, or are appended to `rejects`, where it is given. Where all are bad,
    or the file is not the one that `file.identity` tells, `UserError` is raised. Without columns.id,
    ids are `{file.name}#{row}`. A document whose source field is absent or null has the source ''.
    `left_out`: rows that are passed over, as an earlier reader has found no token in them.
    """
    verify(file)
    source = format_of(file.path)
    good, bad, first = 0, 0, None
    for row, record in enumerate(source.records(columns)):
        if row in left_out or blank(record):
            continue
        try:
            document = _document(file, columns, row, record)
        except BadRecord as error:
            if rejects is None:
                for _ in source.records(columns):  # a file damaged further on has no lines to mend
                    pass
            reject(error, file, row, rejects)
            first = first or error
            bad += 1
            continue
        good += 1
        yield document
    if first is not None and not good:
        raise _none_good(first, bad)


def with_tokens(
    documents: Iterable[Document],
    file: PoolFile,
    tokenless: Callable[[list[str]], list[bool]],
    rejects: list[Reject] | None,
) -> Iterator[Document]:
    """The documents of a file that have a token; others are bad records, as of `read_documents`.

    `tokenless` says of each text whether it has none. `rejects` are then in the order of the rows no
    more.
    """
    first, good, remaining = None, 0, iter(documents)
    while block := list(islice(remaining, TESTED_TOGETHER)):
        for document, bad in zip(block, tokenless([d.text for d in block]), strict=True):
            if bad:
                error = no_token(document)
                reject(error, file, document.row, rejects)
                first = first or error
                continue
            good += 1
            yield document
    if first is not None and not good:
        raise _none_good(first, len(rejects or []))


def tokenless_rows(rejects: Iterable[Mapping[str, Any]]) -> frozenset[int]:
    """The rows of a file in which `with_tokens` found no token, from the check's list of rejects."""
    return frozenset(reject["row"] for reject in rejects if reject["reason"] == NO_TOKEN)


def reject(error: BadRecord, file: PoolFile, row: int, rejects: list[Reject] | None) -> None:
    """List a bad record among the `rejects`, or raise it where there is no such list."""
    error.where = place(file.path, row)
    if rejects is None:
        error.todo += "; or set pool.bad_records: skip, which lists such rows"
        raise error
    rejects.append(Reject(row, error.reason, error.found[:SHOWN]))
    if len(rejects) > MOST_REJECTS:
        raise UserError(
            expected=f"at most {MOST_REJECTS:,} bad records in one job",
            found=f"more, the last: {error.found}",
            where=error.where,
            todo=f"{error.todo}; or remove {file.path} from pool.paths",
        ) from None


def _none_good(first: BadRecord, bad: int) -> UserError:
    """Every record of a file is bad: more likely the wrong file or column than so many bad rows."""
    return UserError(
        expected=f"a good record; {first.expected}",
        found=f"{bad:,} bad ones, the first: {first.found}",
        where=first.where,
        todo=f"{first.todo}; or remove the file from pool.paths",
    )


def _document(
    file: PoolFile, columns: PoolColumns, row: int, record: bytes | dict[str, Any]
) -> Document:
    values = object_of(record) if isinstance(record, bytes) else record
    return Document(
        row,
        f"{file.name}#{row}" if columns.id is None else _id(values, columns.id),
        text_in(values, columns.text, "pool.columns.text"),
        "" if columns.source is None else _source(values, columns.source),
    )


def value_of(values: dict[str, Any], field: str) -> Any:
    """The value of a field, in nested objects where it is `outer.inner`; ABSENT without."""
    if field in values:
        return values[field]
    outer, dot, inner = field.partition(".")
    nested = values.get(outer) if dot else None
    return value_of(nested, inner) if isinstance(nested, dict) else ABSENT


# From a record to a document.


def blank(record: bytes | dict[str, Any]) -> bool:
    """Whether a record is a line of nothing but white space, which only counts as a row."""
    # A longer line has been cut: what follows may be no white space.
    short = len(record) <= text_lines.LONGEST_RECORD_BYTES
    return isinstance(record, bytes) and short and not record.strip()


def object_of(line: bytes) -> dict[str, Any]:
    """The JSON object on a line."""
    if len(line) > text_lines.LONGEST_RECORD_BYTES:
        raise _too_long(f"a longer line: {_shown(line)}")
    try:
        values = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise _not_json(line, error) from None
    if not isinstance(values, dict):
        raise BadRecord(
            "no JSON object",
            "a JSON object",
            f"a JSON {type(values).__name__}: {_shown(line)}",
            "write one object with a text field on each line",
        )
    return values


def _decoded(values: dict[str, Any], field: str) -> Any:
    """`value_of`, which a table may hold in bytes that are no text."""
    value = value_of(values, field)
    if isinstance(value, UnicodeDecodeError):
        raise _not_utf8(value)
    return value


def _id(values: dict[str, Any], field: str) -> str:
    value = _decoded(values, field)
    if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
        raise BadRecord(
            "no id",
            f"an id in the field {field!r}, a string or an integer",
            f"the fields {list(values)}" if value is ABSENT else f"{value!r:.100}",
            "correct pool.columns.id; null makes ids from file name and row",
        )
    return str(value)


def text_in(values: dict[str, Any], field: str, setting: str) -> str:
    value = _decoded(values, field)
    if not isinstance(value, str):
        raise no_text(values, field, setting)
    if not value or value.isspace():
        raise BadRecord(
            "empty text",
            f"text in the field {field!r}",
            "an empty string" if not value else f"nothing but white space: {value!r:.40}",
            "remove the row: there is nothing to train on",
        )
    # A text in a table: lines have been measured already.
    longest = text_lines.LONGEST_RECORD_BYTES
    if 4 * len(value) > longest and len(value.encode()) > longest:
        raise _too_long(f"a longer text: {value[:80]!r}")
    return value


def _source(values: dict[str, Any], field: str) -> str:
    value = _decoded(values, field)
    unknown = value is ABSENT or value is None or isinstance(value, ValueError)
    return "" if unknown else str(value)


# What is wrong with a record.


def no_text(values: dict[str, Any], field: str, setting: str) -> BadRecord:
    value = value_of(values, field)
    pairs = " or ".join(f"{{{a}, {b}}}" for a, b in PAIRS)
    fields = f" (or {pairs})" if setting == "reference.paths" else ""
    kind = "null" if value is None else type(value).__name__
    return BadRecord(
        "no text",
        f"a string in the field {field!r}{fields}",
        f"the fields {list(values)}"[:1000] if value is ABSENT else f"{kind} in {field!r}",
        f"correct {setting}, or the row",
    )


def no_token(document: Document) -> BadRecord:
    return BadRecord(
        NO_TOKEN,
        "a text that has tokens",
        f"{document.text[:80]!r}, of which the tokenizer knows no character",
        "remove the row, or set sample.tokenizer to a tokenizer that falls back to bytes",
    )


def _not_json(line: bytes, error: orjson.JSONDecodeError) -> BadRecord:
    try:
        line.decode()
    except UnicodeDecodeError as undecoded:
        return _not_utf8(undecoded)
    todo = "correct or remove the line"
    if line.startswith("\ufeff".encode()):
        todo = (
            "write the file anew without its byte order mark: sed -i '1s/^\\xEF\\xBB\\xBF//' FILE"
        )
    elif line.strip() in (b"[", b"{"):
        todo = "if the file is one JSON value, write one object on each line: jq -c '.[]' FILE"
    found = f"{_shown(line)} ({error})"
    return BadRecord("not JSON", "a JSON object on every line", found, todo)


def _not_utf8(error: UnicodeDecodeError) -> BadRecord:
    begin = _shown(error.object[max(0, error.start - 40) :])
    found = f"the byte 0x{error.object[error.start]:02x} at position {error.start + 1}: {begin}"
    todo = "convert the file to UTF-8, or remove the row"
    return BadRecord("not UTF-8", "text in UTF-8", found, todo)


def _too_long(found: str) -> BadRecord:
    expected = f"a record of at most {text_lines.LONGEST_RECORD_BYTES:,} bytes"
    todo = "split or remove the document; a file of one JSON value needs one object on each line"
    return BadRecord("too long", expected, found, todo)


def _shown(line: bytes) -> str:
    return repr(line[:400].decode(errors="replace")[:80])
