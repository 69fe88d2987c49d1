"""What is told of a pool file that cannot be read to its end, and where a record lies in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import zstandard

from groupmates.errors import UserError
from groupmates.pool.listing import TABLES
from groupmates.pool.opening import is_url, out_of_reach, size_of

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
