"""Which bytes a pool file has. What was scored must be what is read later.

Times say little: `rsync -a`, `cp -p` and `tar` keep those of the origin.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

from groupmates.pool.damage import bytes_of, changed, reading
from groupmates.pool.listing import PoolFile
from groupmates.pool.opening import opened


def sha256_of(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    with reading(str(path)), opened(str(path)) as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
        return digest.hexdigest()


def identity(size: int, sha256: str) -> str:
    """What a file is known by, as provenance has it."""
    return f"{size:,} bytes, sha256 {sha256}"


def identified(files: Iterable[PoolFile], identities: Mapping[str, str]) -> list[PoolFile]:
    """The files with their identities, by name; one that is not among them raises `UserError`."""
    found = []
    for file in files:
        if file.name not in identities:
            raise changed("a file that was scored", "one that was not", file.path)
        found.append(replace(file, identity=identities[file.name]))
    return found


def verify(file: PoolFile) -> None:
    """Compare a file with its identity, where that is known; others raise `UserError`.

    The file is read once more: 5 to 7 % of the time that reading its documents takes.
    """
    if file.identity is not None:
        _verify(file.path, file.identity)


@cache
def _verify(path: str, expected: str) -> None:
    size = bytes_of(path)
    # Another size is seen without reading.
    digest = sha256_of(path) if expected.startswith(identity(size, "")) else "not read"
    if (found := identity(size, digest)) != expected:
        raise changed(expected, found, path)
