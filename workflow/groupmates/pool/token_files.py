"""Files of tokens as trainers read them: webdataset shards of open_lm, Megatron's .bin and .idx.

open_lm: a shard is a .tar of windows, each a gzipped JSON list of token ids under `{key}.json.gz`.
A line of `manifest.jsonl` has a shard's path from the manifest's folder on, without `.tar`, and its
`num_sequences`. Megatron: `.bin` has the tokens of all documents behind each other, `.idx` their type,
lengths and places.
"""

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import orjson

GZIP_LEVEL = 1  # 5 % larger than level 6, and three times as fast
MEGATRON_HEADER = b"MMIDIDX\x00\x00"
MEGATRON_VERSION = 1
MEGATRON_TYPES = {"int32": 4, "uint16": 8}


def token_type(vocabulary: int) -> np.dtype:
    """The type that holds every token id; Megatron's own rule."""
    return np.dtype("<u2" if vocabulary < 65500 else "<i4")


def write_shard(path: Path, windows: Iterable[np.ndarray], prefix: str) -> None:
    """A .tar of windows of tokens; their keys are the prefix and a number, unique in the dataset."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, window in enumerate(windows):
            text = orjson.dumps(window, option=orjson.OPT_SERIALIZE_NUMPY)
            content = gzip.compress(text, GZIP_LEVEL, mtime=0)
            entry = tarfile.TarInfo(f"{prefix}-{number:05d}.json.gz")
            entry.size = len(content)  # time and owner stay 0: equal windows, equal bytes
            archive.addfile(entry, io.BytesIO(content))


def write_manifest(path: Path, shards: Iterable[tuple[str, int]]) -> None:
    """`shards` are names and numbers of windows."""
    lines = (json.dumps({"shard": name, "num_sequences": n}) + "\n" for name, n in shards)
    path.write_text("".join(lines))


def write_index(path: Path, kind: np.dtype, lengths: np.ndarray) -> None:
    """The .idx of documents of `lengths` tokens of a type; each is one sequence of Megatron's."""
    starts = np.cumsum(lengths, dtype="<i8") - lengths
    with path.open("wb") as file:
        file.write(MEGATRON_HEADER)
        file.write(struct.pack("<QB", MEGATRON_VERSION, MEGATRON_TYPES[kind.name]))
        file.write(struct.pack("<QQ", len(lengths), len(lengths) + 1))
        file.write(lengths.astype("<i4").tobytes())
        file.write((starts * kind.itemsize).astype("<i8").tobytes())
        file.write(np.arange(len(lengths) + 1, dtype="<i8").tobytes())


class Stream:
    """Token files, memory-mapped, as one stream."""

    def __init__(self, pieces: list[Path]) -> None:
        self._pieces = [np.load(path, mmap_mode="r") for path in pieces]
        self._ends = np.cumsum([len(piece) for piece in self._pieces])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def write(self, file: BinaryIO) -> None:
        """Append all tokens to a file."""
        for piece in self._pieces:
            file.write(memoryview(piece))

    def window(self, start: int, length: int) -> np.ndarray:
        """The tokens from `start` on, at most `length`."""
        found: list[np.ndarray] = []
        piece = int(np.searchsorted(self._ends, start, side="right"))
        while length and piece < len(self._pieces):
            tokens = self._pieces[piece]
            first = start - (int(self._ends[piece]) - len(tokens))
            found.append(tokens[first : first + length])
            start, length = start + len(found[-1]), length - len(found[-1])
            piece += 1
        return np.concatenate(found)

    def windows(self, order: np.ndarray, length: int) -> Iterator[np.ndarray]:
        """The windows of `length` tokens that `order` names by their number in the stream."""
        for number in order.tolist():
            yield self.window(number * length, length)
