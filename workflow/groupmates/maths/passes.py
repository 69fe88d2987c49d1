"""Endless passes over the windows of a training, each in an order of its own.

Legend: W windows, B rows of a batch.
"""

from __future__ import annotations

import numpy as np

from groupmates.maths.randomness import generator


class Passes:
    """Passes over `windows` windows below each other, of which step k takes rows k x B to (k + 1) x B.

    The order of a pass depends on (seed, name, number of the pass) alone, and a batch on its step
    alone. The last order that was asked for stays in memory: 8 bytes a window.
    """

    def __init__(self, windows: int, seed: int, name: str) -> None:
        assert windows > 0
        self.windows, self._seed, self._name = windows, seed, name
        self._last: tuple[int, np.ndarray] | None = None

    def order(self, number: int) -> np.ndarray:
        """All windows in the order of a pass, int64 [W]."""
        if self._last is None or self._last[0] != number:
            random = generator(self._seed, "pretrain", f"{self._name}, pass {number}")
            self._last = number, random.permutation(self.windows)
        return self._last[1]

    def batch(self, step: int, rows: int) -> np.ndarray:
        """The windows of a step, int64 [B]."""
        start, end = step * rows, (step + 1) * rows
        found = []
        while start < end:
            number, place = divmod(start, self.windows)
            found.append(self.order(number)[place : place + end - start])
            start += len(found[-1])
        return np.concatenate(found)

    def counts(self, rows: int) -> np.ndarray:
        """How often each window is among the first so many rows, int64 [W]."""
        whole, rest = divmod(rows, self.windows)
        count_W = np.full(self.windows, whole)
        if rest:
            count_W[self.order(whole)[:rest]] += 1
        return count_W
