"""Lines of JSON, plain or compressed: a record is a line, and only `\\n` ends one."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import orjson
import zstandard

from groupmates.pool.damage import changed, check_end, place, reading
from groupmates.pool.opening import opened

CHUNK_BYTES = 1 << 18  # read at a time; zstd makes about 1 MB of it
# Archives made with `zstd --long=31` need the largest window; others allocate what they ask for.
ZSTD_WINDOW_BYTES = 1 << 31
ZSTD_LEVEL = 1  # as Arrow has for Parquet; 3 takes twice as long for files 7 to 11 % smaller
GZIP_LEVEL = 6
# The tokenizer's memory is many times the text's, and a file without line ends is one record.
LONGEST_RECORD_BYTES = 64 << 20
# Numbers that a float may round: of 17 characters, of 16 digits and an exponent, or next to nothing.
LONG_NUMBER = re.compile(rb"[0-9.]{16}[0-9.eE]")
TINY_NUMBER = re.compile(rb"-(?<=[eE]-)[0-9]{3}")  # begins with a literal, for which search is fast
Compression = Literal["none", "gzip", "zstd"]


class TextLines:
    """A pool file of lines, read as a stream: memory is a chunk and the longest line."""

    def __init__(self, path: str, compression: Compression) -> None:
        self.path, self.compression = path, compression

    def records(self, columns: object = None) -> Iterator[bytes]:
        """The lines; one of more than LONGEST_RECORD_BYTES is cut behind them."""
        for lines in self._blocks(LONGEST_RECORD_BYTES):
            yield from lines

    def chosen(self, rows: np.ndarray, column: str | None) -> Iterator[dict[str, Any]]:
        """The objects on the lines at `rows`; the other lines are not parsed."""
        start = 0
        for lines in self._blocks():
            for row in within(rows, start, len(lines)).tolist():
                try:
                    yield exactly(lines[row])
                except orjson.JSONDecodeError as error:
                    where = place(self.path, start + row)
                    raise changed("a JSON object", f"none ({error})", where) from None
            start += len(lines)
            if start > rows[-1]:
                return
        check_end(self.path, rows, start)

    def copy(self, rows: np.ndarray, destination: Path) -> None:
        """Write the lines at `rows` byte by byte."""
        start = 0
        with destination.open("wb") as raw, self._compressing(raw) as output:
            for lines in self._blocks():
                wanted = within(rows, start, len(lines)).tolist()
                output.write(b"".join([lines[row] + b"\n" for row in wanted]))
                start += len(lines)
        check_end(self.path, rows, start)

    def _blocks(self, longest: int | None = None) -> Iterator[list[bytes]]:
        """The lines without their line ends, some at a time.

        Of a line of more than `longest` bytes only the beginning comes, which is still longer than
        that: a file without line ends does not fill the memory.
        """
        pieces: list[bytes] = []
        size = 0
        for chunk in self._chunks():
            first, *others = chunk.split(b"\n")
            if longest is None or size <= longest:
                pieces.append(first)
                size += len(first)
            if others:
                yield [b"".join(pieces), *others[:-1]]
                pieces = others[-1:]
                size = len(pieces[0])
        if last := b"".join(pieces):
            yield [last]

    def _chunks(self) -> Iterator[bytes]:
        """The bytes, of all frames of a zstd file and of all members of a gzip file.

        Frames are decompressed one by one: zstandard's stream_reader takes a truncated file for a
        whole one.
        """
        with reading(self.path), opened(self.path) as stream:
            if self.compression != "zstd":
                plain = gzip.GzipFile(fileobj=stream) if self.compression == "gzip" else stream
                while chunk := plain.read(CHUNK_BYTES):
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

    @contextmanager
    def _compressing(self, raw: Any) -> Iterator[Any]:
        """`raw` itself, or a stream that compresses into it as one frame."""
        if self.compression == "none":
            yield raw
        elif self.compression == "gzip":
            # No name and no time in the header.
            with gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0) as output:
                yield output
        else:
            compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_checksum=True)
            with compressor.stream_writer(raw, closefd=False) as output:
                yield output


def exactly(line: bytes) -> Any:
    """The JSON value on a line; numbers that a float would round are kept as they are spelt.

    orjson reads an integer of thirty digits, or a decimal of as many, as the nearest float. Of a key
    that occurs twice, the last value stays.
    """
    if not (LONG_NUMBER.search(line) or TINY_NUMBER.search(line)):
        return orjson.loads(line)
    return json.loads(line, parse_float=_kept, parse_int=_kept)


def _kept(number: str) -> Any:
    """A number, or where it would be rounded its digits, which orjson writes as they are."""
    try:
        value = orjson.loads(number)
    except orjson.JSONDecodeError:  # past the largest float
        return orjson.Fragment(number)
    return value if orjson.dumps(value).decode() == number else orjson.Fragment(number)


def within(rows: np.ndarray, start: int, count: int) -> np.ndarray:
    """Those of the increasing `rows` that are among `count` from `start` on, counted from there."""
    first, last = np.searchsorted(rows, (start, start + count))
    return rows[first:last] - start
