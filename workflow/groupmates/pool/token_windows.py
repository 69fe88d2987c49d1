"""The tokens of a selection for pretraining: a flat file for each part of the pool, and its windows.

Legend: W windows of all parts, B rows of a batch, L predicted tokens of a window, T tokens of a part.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa

from groupmates.artefacts.store import read_folder_json, read_table
from groupmates.maths.packing import windows

TOKENS, DOCUMENTS, PART = "tokens.npy", "documents.parquet", "part.json"


def write_tokens(path: Path, kind: np.dtype, total: int, pieces: Iterable[np.ndarray]) -> None:
    """A .npy file [T] of `total` tokens, which come in pieces and are never in memory as one."""
    header = {"descr": kind.str, "fortran_order": False, "shape": (total,)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(memoryview(np.ascontiguousarray(piece, kind)))


class TokenWindows:
    """The windows of all parts, numbered from part to part; the files stay mapped.

    Windows overlap by a token, as `packing.windows` cuts them. The rest at the end of a part is in none.
    """

    def __init__(self, parts: list[Path], length: int) -> None:
        self.parts, self.length = parts, length
        self._counts = [read_folder_json(part, "pretrain_tokens", PART) for part in parts]
        flat = [np.load(part / TOKENS, mmap_mode="r") for part in parts]
        self._views = [windows(tokens, length) for tokens in flat]
        self._ends = np.cumsum([len(view) for view in self._views])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def tokens(self) -> int:
        """Tokens of all parts."""
        return sum(counts["tokens"] for counts in self._counts)

    def largest_ids(self) -> dict[Path, int]:
        """The largest token id of each part that has a token."""
        known = zip(self.parts, self._counts, strict=True)
        return {part: counts["largest_id"] for part, counts in known if counts["tokens"]}

    def rows(self, window_B: np.ndarray) -> np.ndarray:
        """The tokens of windows, by their numbers: int64 [B, L + 1]."""
        found = np.empty((len(window_B), self.length + 1), np.int64)
        part_B = np.searchsorted(self._ends, window_B, side="right")
        for part in np.unique(part_B).tolist():
            here = part_B == part
            found[here] = self._views[part][window_B[here] - self._begin(part)]
        return found

    def of_part(self, part: int, count_W: np.ndarray) -> np.ndarray:
        """Of numbers for all windows, those for the windows of a part."""
        return count_W[self._begin(part) : self._ends[part]]

    def documents(self, part: int) -> pa.Table:
        """The documents of a part, in the order of its tokens."""
        return read_table(self.parts[part] / DOCUMENTS, "pretrain_documents")

    def names(self, window_B: np.ndarray) -> list[str]:
        """Windows by part and number within it, as messages have them."""
        part_B = np.searchsorted(self._ends, window_B, side="right").tolist()
        return [
            f"{self.parts[part].name} {window - self._begin(part)}"
            for part, window in zip(part_B, window_B.tolist(), strict=True)
        ]

    def documents_of(self, window_B: np.ndarray) -> list[str]:
        """The ids of the documents that have a token in these windows, each once."""
        found: dict[str, None] = {}
        part_B = np.searchsorted(self._ends, window_B, side="right")
        for part in np.unique(part_B).tolist():
            table = self.documents(part)
            end_N = np.cumsum(table["tokens"].to_numpy())
            start_B = (window_B[part_B == part] - self._begin(part)) * self.length
            first_B, last_B = (
                np.searchsorted(end_N, place_B, side="right")
                for place_B in (start_B, start_B + self.length)
            )
            for first, last in zip(first_B.tolist(), last_B.tolist(), strict=True):
                found |= dict.fromkeys(table["doc_id"][first : last + 1].to_pylist())
        return list(found)

    def _begin(self, part: int) -> int:
        return int(self._ends[part] - len(self._views[part]))
