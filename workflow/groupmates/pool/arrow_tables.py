"""Rows of Parquet files and of Arrow streams, batch by batch, and the errors of their columns."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groupmates.errors import UserError
from groupmates.pool.damage import reading
from groupmates.pool.opening import is_url, opened
from groupmates.pool.text_lines import CHUNK_BYTES

BATCH_ROWS = 256
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


def rows(path: str, wanted: dict[str, str | None]) -> Iterator[dict[str, Any]]:
    """The wanted fields of every row, by name; nested ones as `outer.inner`.

    `wanted` maps the keys of pool.columns to names: those of text and id must be there. A value that
    cannot be decoded is the ValueError that says why.
    """
    names = [name for name in dict.fromkeys(wanted.values()) if name is not None]
    arrow = path.endswith(".arrow")
    with (arrow_stream if arrow else parquet_file)(path) as (schema, batches):
        with reading(path):
            found = {name: place for name in names if (place := field(schema, name))}
            for setting in ("text", "id"):
                check_column(schema, wanted[setting], setting, path)
        for batch in batches(list(found.values())):
            with reading(path):
                columns = [leaf(batch, place, validate=arrow) for place in found.values()]
            for values in zip(*map(as_python, columns), strict=True):
                yield dict(zip(found, values, strict=True))


def number_of_rows(path: str) -> int:
    if path.endswith(".parquet"):
        with reading(path), opened(path) as source:
            return int(pq.read_metadata(source).num_rows)
    with arrow_stream(path) as (_, batches):
        return sum(map(len, batches([])))


@contextmanager
def parquet_file(path: str) -> Iterator[tuple[pa.Schema, Any]]:
    """Schema of a Parquet file, and a function from fields to batches that hold them alone."""
    with ExitStack() as stack:
        with reading(path):
            source = stack.enter_context(opened(path)) if is_url(path) else path
            file = stack.enter_context(
                pq.ParquetFile(source, buffer_size=CHUNK_BYTES, page_checksum_verification=True)
            )

        def batches(places: list[tuple[str, ...]]) -> Iterator[pa.RecordBatch]:
            found = 0
            columns = [".".join(place) for place in places]
            with reading(path):
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=columns):
                    found += len(batch)
                    yield batch
                if found != file.metadata.num_rows:
                    raise EOFError(f"{found:,} rows, {file.metadata.num_rows:,} by its footer")

        yield file.schema_arrow, batches


@contextmanager
def arrow_stream(path: str) -> Iterator[tuple[pa.Schema, Any]]:
    """The same of an Arrow stream, whose batches come whole.

    It must end as one: Arrow takes a stream that is cut between two batches for a whole one.
    """
    with ExitStack() as stack:
        with reading(path):
            raw = stack.enter_context(opened(path))
            if raw.read(6) == b"ARROW1":
                raise UserError(
                    expected="an Arrow stream, as save_to_disk writes it",
                    found="an Arrow file with a footer",
                    where=path,
                    todo="convert it to Parquet",
                )
            end = raw.seek(0, os.SEEK_END)
            raw.seek(max(0, end - len(STREAM_END)))
            if raw.read() != STREAM_END:
                raise EOFError("the end of the stream is missing")
            raw.seek(0)
            # Mapped, a damaged length is an error; read, it is memory that is asked for.
            mapped = pa.PythonFile(raw, mode="r") if is_url(path) else pa.memory_map(path)
            source = stack.enter_context(mapped)
            stream = stack.enter_context(pa.ipc.open_stream(source))

        def batches(places: list[tuple[str, ...]]) -> Iterator[pa.RecordBatch]:
            with reading(path):
                yield from stream
                if source.tell() != end:
                    raise EOFError(f"the stream ends {end - source.tell():,} bytes before the file")

        yield stream.schema, batches


def field(schema: pa.Schema | pa.StructType, name: str) -> tuple[str, ...]:
    """Names from the outermost to the field `name`, such as content.text; () where there is none."""
    if isinstance(schema, pa.Schema):
        schema = pa.struct(schema)
    index = schema.get_field_index(name)
    if index >= 0:
        return (name,)
    outer, _, inner = name.partition(".")
    index = schema.get_field_index(outer)
    if not inner or index < 0 or not pa.types.is_struct(schema.field(index).type):
        return ()
    below = field(schema.field(index).type, inner)
    return (outer, *below) if below else ()


def leaf(batch: pa.RecordBatch, place: tuple[str, ...], validate: bool) -> pa.Array:
    """The column at `place`; null where an outer field is.

    With `validate` its offsets are looked at first: following damaged ones would end the process.
    """
    column = batch.column(place[0])
    for name in place[1:]:
        column = pc.struct_field(column, name)
    if validate:
        kinds = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary()}
        raw = kinds.get(column.type)  # which bytes are UTF-8 is asked row by row
        (column.view(raw) if raw else column).validate(full=True)
    return column


def as_python(column: pa.Array) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
        return values
    except ValueError:  # such as UnicodeDecodeError
        return [_as_python(value) for value in column]


def _as_python(value: pa.Scalar) -> Any:
    try:
        return value.as_py()
    except ValueError as error:
        return error


def check_column(schema: pa.Schema, name: str | None, setting: str, path: str) -> None:
    """The column of text or id must be there, that of the text hold strings."""
    if name is None:
        return
    place = field(schema, name)
    kind = pa.struct(schema)
    for part in place:
        kind = kind.field(part).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if place and (setting == "id" or any(is_kind(kind) for is_kind in strings)):
        return
    raise UserError(
        expected=f"a column {name!r}" + (" of strings" if place else ""),
        found=str(kind) if place else f"the columns {leaves(schema)}"[:1000],
        where=path,
        todo=f"set pool.columns.{setting} to the name of the column",
    )


def leaves(schema: pa.Schema | pa.StructType) -> list[str]:
    """The columns, nested ones as `outer.inner`."""
    names: list[str] = []
    for part in schema:
        nested = leaves(part.type) if pa.types.is_struct(part.type) else []
        names += [f"{part.name}.{inner}" for inner in nested] or [part.name]
    return names
