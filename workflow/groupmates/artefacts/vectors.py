"""Rows of float32 in a .npy file, appended block by block and mapped into memory when read.

A hash of each block tells damage: NumPy's format has none.
Legend: N rows of a block, D size of a row.
"""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import IO

import numpy as np
import xxhash

KIND = np.dtype("<f4")
# NumPy parses heads with `ast`, which is not safe in several threads before Python 3.13.
HEADS = Lock()


class VectorWriter:
    """Writes a .npy file of float32 [rows, size] whose number of rows is known at its end.

    `finish` completes it; `hashes` are those of the blocks, in their order.
    """

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size, self._rows = file, size, 0
        self.hashes: list[str] = []
        self._write_head()

    def write(self, emb_ND: np.ndarray) -> None:
        """Append a block."""
        block = np.ascontiguousarray(emb_ND, KIND)
        assert block.shape[1:] == (self._size,), block.shape
        self._file.write(block.data)
        self._rows += len(block)
        self.hashes.append(hash_of(block))

    def finish(self) -> None:
        self._file.seek(0)
        self._write_head()

    def _write_head(self) -> None:
        """NumPy leaves room for a larger number of rows: the head keeps its length."""
        head = {"descr": KIND.str, "fortran_order": False, "shape": (self._rows, self._size)}
        np.lib.format.write_array_header_1_0(self._file, head)


def hash_of(block_ND: np.ndarray) -> str:
    """XXH3 of a block's bytes, 64 bits: some 20 GB a second."""
    return xxhash.xxh3_64_hexdigest(block_ND.data)


class Vectors:
    """A .npy file of float32 [rows, size]; ValueError and OSError where it is another or cut off."""

    def __init__(self, path: Path, rows: int, size: int) -> None:
        with HEADS:
            whole = np.load(path, mmap_mode="r")
        if whole.shape != (rows, size) or whole.dtype != KIND:
            raise ValueError(f"{whole.dtype} {list(whole.shape)}, not float32 [{rows}, {size}]")
        self._path, self._size, self._offset = path, size, int(whole.offset)

    def block(self, first: int, rows: int, known: str) -> np.ndarray:
        """Rows of one block, read-only, after comparing their hash.

        Each block is mapped by itself, so that one which nobody holds counts as no memory.
        """
        offset = self._offset + first * self._size * KIND.itemsize
        block_ND = np.memmap(self._path, KIND, "r", offset, (rows, self._size))
        if hash_of(block_ND) != known:
            raise ValueError(f"rows {first:,} to {first + rows - 1:,} are not as they were written")
        return np.asarray(block_ND)
