"""The formats with columns: Parquet files, and Arrow streams as save_to_disk writes them."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from groupmates.errors import UserError
from groupmates.pool.damage import changed, check_end, reading
from groupmates.pool.opening import is_url, opened
from groupmates.pool.text_lines import CHUNK_BYTES, within
from groupmates.settings.config import PoolColumns

BATCH_ROWS = 256
DICTIONARY_BYTES = 1 << 20  # Arrow gives a dictionary of more up, after the work of making it
STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
Place = tuple[str, ...]  # where a field is: names from the outermost to its own
# Rows that lie together: their number, and a function that reads them in batches. It is given the
# places of the fields that are wanted; without any it reads all.
Part = tuple[int, Callable[[list[Place]], Iterator[pa.RecordBatch]]]


class Table(ABC):
    """A pool file of rows, read part by part: a row group, or a batch of a stream."""

    checks_offsets: bool  # because the format has no checksums

    def __init__(self, path: str) -> None:
        self.path = path

    @abstractmethod
    def parts(self) -> AbstractContextManager[tuple[pa.Schema, Iterator[Part]]]:
        """Open the file: its schema, and its parts in their order."""

    @abstractmethod
    def copy(self, rows: np.ndarray, destination: Path) -> None:
        """Write the rows at `rows`, with schema and metadata."""

    def number_of_rows(self) -> int:
        with self.parts() as (_, parts):
            return sum(count for count, _ in parts)

    def records(self, columns: PoolColumns | None) -> Iterator[dict[str, Any]]:
        """The fields of every row that `columns` names, nested ones as `outer.inner`; None: all.

        The columns of text and id must be there. A value that cannot be decoded is the ValueError
        that says why.
        """
        with self.parts() as (schema, parts):
            wanted = schema.names if columns is None else columns.model_dump().values()
            with reading(self.path):
                found = {name: place for name in wanted if name and (place := field(schema, name))}
                if columns is not None:
                    check_column(schema, columns.text, "text", self.path)
                if columns is not None and columns.id is not None:
                    check_column(schema, columns.id, "id", self.path)
            places = list(found.values())
            for _, read in parts:
                for batch in read(places):
                    with reading(self.path):
                        leaves = [leaf(batch, place, self.checks_offsets) for place in places]
                    for values in zip(*map(as_python, leaves), strict=True):
                        yield dict(zip(found, values, strict=True))

    def chosen(self, rows: np.ndarray, column: str | None) -> Iterator[dict[str, Any]]:
        """The fields of `rows`, or one `column` of them; parts without such a row are not read."""
        start = 0
        with self.parts() as (schema, parts):
            place = () if column is None else field(schema, column)
            if column is not None and not place:
                raise changed(
                    f"a column {column!r}", f"the columns {schema.names}"[:1000], self.path
                )
            outer = [place[0]] if place else schema.names
            for count, read in parts:
                here = within(rows, start, count)
                start += count
                if not len(here):
                    continue
                wanted = mask(here, count)
                for batch in read([place] if place else []):
                    ours, wanted = pa.array(wanted[: len(batch)]), wanted[len(batch) :]
                    with reading(self.path):
                        columns = [leaf(batch, (n,), self.checks_offsets) for n in outer]
                    values = [as_python(values.filter(ours)) for values in columns]
                    for row in zip(*values, strict=True):
                        yield dict(zip(outer, row, strict=True))
        check_end(self.path, rows, start)


class Parquet(Table):
    checks_offsets = False

    @contextmanager
    def _file(self) -> Iterator[pq.ParquetFile]:
        with ExitStack() as stack:
            with reading(self.path):
                source = stack.enter_context(opened(self.path)) if is_url(self.path) else self.path
                file = stack.enter_context(
                    pq.ParquetFile(source, buffer_size=CHUNK_BYTES, page_checksum_verification=True)
                )
            yield file

    @contextmanager
    def parts(self) -> Iterator[tuple[pa.Schema, Iterator[Part]]]:
        with self._file() as file:

            def read(group: int, places: list[Place]) -> Iterator[pa.RecordBatch]:
                columns, found = [".".join(place) for place in places] or None, 0
                with reading(self.path):
                    for batch in file.iter_batches(
                        batch_size=BATCH_ROWS, row_groups=[group], columns=columns
                    ):
                        found += len(batch)
                        yield batch
                    if found != sizes[group]:
                        raise EOFError(f"{found:,} rows, {sizes[group]:,} by the footer")

            with reading(self.path):
                sizes = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
                if sum(sizes) != file.metadata.num_rows:
                    raise EOFError("the row groups have not as many rows as the file")
            yield file.schema_arrow, ((n, partial(read, g)) for g, n in enumerate(sizes))

    def copy(self, rows: np.ndarray, destination: Path) -> None:
        """One row group for each that holds some of them."""
        start = 0
        with self._file() as file, self._writer(file, destination) as output:
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                here = within(rows, start, count)
                if len(here):
                    with reading(self.path):
                        table = file.read_row_group(group)
                    # A mask, not `take`: that would join the chunks of a text column, at most 2 GB.
                    chosen = table.filter(pa.array(mask(here, count)))
                    output.write_table(chosen, row_group_size=count)
                start += count
        check_end(self.path, rows, start)

    def _writer(self, file: pq.ParquetFile, destination: Path) -> pq.ParquetWriter:
        """Compresses each column as the first row group does; a dictionary where it was small there."""
        first = file.metadata.row_group(0) if file.num_row_groups else None
        chunks = [first.column(i) for i in range(first.num_columns)] if first else []
        codecs = {c.path_in_schema: c.compression.replace("UNCOMPRESSED", "NONE") for c in chunks}
        small = [c.path_in_schema for c in chunks if c.total_uncompressed_size < DICTIONARY_BYTES]
        return pq.ParquetWriter(
            destination, file.schema_arrow, compression=codecs or "zstd", use_dictionary=small
        )


class ArrowStream(Table):
    checks_offsets = True

    @contextmanager
    def parts(self) -> Iterator[tuple[pa.Schema, Iterator[Part]]]:
        """It must end as a stream: Arrow takes one that is cut between two batches for a whole."""
        with ExitStack() as stack:
            with reading(self.path):
                raw = stack.enter_context(opened(self.path))
                if raw.read(6) == b"ARROW1":
                    raise UserError(
                        expected="an Arrow stream, as save_to_disk writes it",
                        found="an Arrow file with a footer",
                        where=self.path,
                        todo="convert it to Parquet",
                    )
                end = raw.seek(0, os.SEEK_END)
                raw.seek(max(0, end - len(STREAM_END)))
                if raw.read() != STREAM_END:
                    raise EOFError("the end of the stream is missing")
                raw.seek(0)
                # Mapped, a damaged length is an error; read, it is memory that is asked for.
                far = is_url(self.path)
                mapped = pa.PythonFile(raw, mode="r") if far else pa.memory_map(self.path)
                source = stack.enter_context(mapped)
                stream = stack.enter_context(pa.ipc.open_stream(source))

            def read(batch: pa.RecordBatch, places: list[Place]) -> Iterator[pa.RecordBatch]:
                yield batch  # whole, whatever is asked for

            def batches() -> Iterator[Part]:
                with reading(self.path):
                    for batch in stream:
                        yield len(batch), partial(read, batch)
                    if source.tell() != end:
                        more = end - source.tell()
                        raise EOFError(f"the stream ends {more:,} bytes before the file")

            yield stream.schema, batches()

    def copy(self, rows: np.ndarray, destination: Path) -> None:
        start = 0
        with (
            self.parts() as (schema, parts),
            pa.OSFile(str(destination), "wb") as raw,
            pa.ipc.new_stream(raw, schema) as output,
        ):
            for count, read in parts:
                here = within(rows, start, count)
                if len(here):
                    (batch,) = read([])
                    output.write_batch(batch.filter(pa.array(mask(here, count))))
                start += count
        check_end(self.path, rows, start)


def mask(places: np.ndarray, count: int) -> np.ndarray:
    """bool [count], true at these places."""
    wanted = np.zeros(count, bool)
    wanted[places] = True
    return wanted


def field(schema: pa.Schema | pa.StructType, name: str) -> Place:
    """Where the field `name` is, such as content.text; () where there is none."""
    if isinstance(schema, pa.Schema):
        schema = pa.struct(schema)
    if schema.get_field_index(name) >= 0:
        return (name,)
    outer, _, inner = name.partition(".")
    index = schema.get_field_index(outer)
    if not inner or index < 0 or not pa.types.is_struct(schema.field(index).type):
        return ()
    below = field(schema.field(index).type, inner)
    return (outer, *below) if below else ()


def leaf(batch: pa.RecordBatch, place: Place, validate: bool) -> pa.Array:
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
    """The values; for one that cannot be decoded the ValueError that says why."""

    def each(value: pa.Scalar) -> Any:
        try:
            return value.as_py()
        except ValueError as error:  # such as UnicodeDecodeError
            return error

    try:
        return list(column.to_pylist())
    except ValueError:
        return list(map(each, column))


def check_column(schema: pa.Schema, name: str, setting: str, path: str) -> None:
    """The column of text or id must be there, that of the text hold strings."""
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
        found=str(kind) if place else f"the columns {all_columns(schema)}"[:1000],
        where=path,
        todo=f"set pool.columns.{setting} to the name of the column",
    )


def all_columns(schema: pa.Schema | pa.StructType) -> list[str]:
    """The columns, nested ones as `outer.inner`."""
    names: list[str] = []
    for part in schema:
        nested = all_columns(part.type) if pa.types.is_struct(part.type) else []
        names += [f"{part.name}.{inner}" for inner in nested] or [part.name]
    return names
