"""Files that are whole or absent: written under another name and renamed when they are complete.

Light: every job imports it, for its record.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path (file or folder, the caller makes it) that becomes `path` on success.

    What a killed job left of the same path is removed first.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The number in full: `x.examples` beside `x` may be in the making in another job.
    leftover = re.compile(rf"\.{re.escape(path.name)}\.\d+\.partial")
    for sibling in path.parent.iterdir():
        if leftover.fullmatch(sibling.name):
            _remove(sibling)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        if temporary.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            sync(temporary)
        temporary.rename(path)
    finally:
        _remove(temporary)


def write_text(path: Path, text: str, durable: bool = False) -> None:
    """Replace a small file in one step; a durable one survives a crash of the machine too."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text)
    if durable:
        sync(temporary)
    temporary.rename(path)


def sync(path: Path) -> None:
    """Wait until a file's bytes are on the disk."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
