"""Lines of a jsonl file in blocks, decompressed as they stream, and the errors of damaged files."""

from __future__ import annotations

import gzip
from collections.abc import Iterator

import zstandard

from groupmates.pool.damage import reading
from groupmates.pool.listing import suffix_of
from groupmates.pool.opening import opened

CHUNK_BYTES = 1 << 18  # read at a time; zstd makes about 1 MB of it
# Archives made with `zstd --long=31` need the largest window; others allocate what they ask for.
ZSTD_WINDOW_BYTES = 1 << 31


def blocks(path: str, longest: int | None = None) -> Iterator[list[bytes]]:
    """The lines of a file without their line ends, some at a time; only `\\n` ends a line.

    Of a line of more than `longest` bytes only the beginning comes, which is still longer than that:
    a file without line ends does not fill the memory.
    """
    pieces: list[bytes] = []
    size = 0
    for chunk in chunks(path):
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


def chunks(path: str) -> Iterator[bytes]:
    """The bytes of a .jsonl, or of all frames of a .jsonl.zst, all members of a .jsonl.gz.

    Frames are decompressed one by one: zstandard's stream_reader takes a truncated file for a whole
    one.
    """
    suffix = suffix_of(path)
    with reading(path), opened(path) as stream:
        if suffix != ".jsonl.zst":
            plain = gzip.GzipFile(fileobj=stream) if suffix == ".jsonl.gz" else stream
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
