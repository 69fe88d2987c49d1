"""Opening files wherever they lie: local paths, and the URLs that fsspec knows (s3, gs, hf, https, …).

Light: runs at every parse; fsspec is imported where a path is a URL. Credentials are those of the
environment, or of fsspec's own configuration.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import IO, Any

from groupmates.errors import UserError


def is_url(path: str) -> bool:
    return "://" in path


def opened(path: str) -> IO[bytes]:
    """A file opened for reading bytes."""
    if not is_url(path):
        return open(path, "rb")
    with _reaching(path) as (system, name):
        return system.open(name, "rb")


def content(path: str) -> bytes:
    """All of a small file."""
    if not is_url(path):
        with open(path, "rb") as stream:
            return stream.read()
    with _reaching(path) as (system, name):
        return system.cat_file(name)


def size_of(path: str) -> int:
    """Bytes of a file as it lies there."""
    if not is_url(path):
        return os.path.getsize(path)
    with _reaching(path) as (system, name):
        return int(system.size(name))


def stamp(paths: Iterable[str]) -> str:
    """What files look like without being read: a digest of their sizes and times of change.

    Of a URL, and of what is not there, only its place among the others counts.
    """
    return hashlib.sha256("\n".join(map(_stamp, paths)).encode()).hexdigest()[:16]


@cache
def _stamp(path: str) -> str:
    if is_url(path):
        return ""
    try:
        found = os.stat(path)
    except OSError:
        return ""
    return f"{found.st_size} {found.st_mtime_ns}"


def exists(path: str) -> bool:
    if not is_url(path):
        return os.path.exists(path)
    with _reaching(path) as (system, name):
        return bool(system.exists(name))


def matching(pattern: str) -> list[str]:
    """What a glob stands for, sorted."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    with _reaching(pattern) as (system, name):
        urls = sorted(system.unstrip_protocol(found) for found in system.glob(name))
    if ":///" in pattern:
        return urls
    return [url.replace(":///", "://") for url in urls]  # as the pattern has it


def out_of_reach(url: str, error: Exception) -> UserError:
    return UserError(
        expected="a file, bucket or repository that can be reached",
        found=f"{type(error).__name__}: {error}"[:400],
        where=url,
        todo="check address, network and credentials (of the environment, or ~/.config/fsspec); s3 "
        "needs the package s3fs, gs gcsfs, http aiohttp; or copy the files here and name the copies",
    )


@contextmanager
def _reaching(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and its name there.

    The libraries behind fsspec have no exception in common: any is an address out of reach.
    """
    try:
        from fsspec.core import url_to_fs

        yield url_to_fs(url)
    except (FileNotFoundError, UserError):
        raise
    except Exception as error:
        raise out_of_reach(url, error) from error
