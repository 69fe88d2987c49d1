"""Lines of a jsonl file in blocks, decompressed as they stream, and the errors of damaged files."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import zstandard

from groupmates.errors import UserError
from groupmates.files import is_url, opened, out_of_reach, size_of
from groupmates.pool import TABLES, suffix_of

# Among them: the name of a column that is no longer UTF-8, a length of petabytes.
DAMAGE = (
    OSError,
    EOFError,
    UnicodeDecodeError,
    MemoryError,
    zlib.error,
    zstandard.ZstdError,
    pa.ArrowException,
)
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


def bytes_of(path: str) -> int:
    """Size of a file as it lies there."""
    with reading(path):
        return size_of(path)


def empty(path: str) -> UserError:
    return UserError(
        expected="at least one row",
        found="none",
        where=path,
        todo="remove the file from the paths, or make it again: its writer may have failed",
    )


def place(path: str, row: int) -> str:
    return f"{path}, {'row' if path.endswith(TABLES) else 'line'} {row + 1}"


@contextmanager
def reading(path: str) -> Iterator[None]:
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
    except UserError:
        raise
    except DAMAGE as error:
        raise UserError(
            expected="a whole and readable file",
            found=f"a damaged or unreadable one ({error})",
            where=path,
            todo="copy or make the file again; its checksum at the origin tells which",
        ) from error
    except Exception as error:
        if not is_url(path):
            raise
        raise out_of_reach(path, error) from error
