"""What is told of a pool file that is damaged or has changed, and where a record lies in it."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import numpy as np
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


def empty(path: str) -> UserError:
    return UserError(
        expected="at least one row",
        found="none",
        where=path,
        todo="remove the file from the paths, or make it again: its writer may have failed",
    )


def changed(expected: str, found: str, where: str) -> UserError:
    """A pool file is no longer what the run has read before."""
    return UserError(
        expected=f"{expected}, as when the run read it before",
        found=found,
        where=where,
        todo="bring the old file back; or take the new one: `touch` it and run snakemake again, which "
        "checks, scores and, if it is among sample.paths, samples it anew",
    )


def check_end(path: str, rows: np.ndarray, found: int) -> None:
    """Refuse rows behind the end of a file that has `found`."""
    if len(rows) and rows[-1] >= found:
        raise changed(f"at least {int(rows[-1]) + 1:,} documents", f"{found:,}", path)


def repeated(found: str, places: Iterable[str]) -> UserError:
    """Two documents of the pool have one id."""
    return UserError(
        expected="every document id once in the pool",
        found=found,
        where=" and ".join(places),
        todo="remove the copies, or set pool.columns.id to null: ids then come from file and row",
    )
