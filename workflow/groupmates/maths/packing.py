"""Token sequences put together without padding, or with as little as can be.

Legend: N sequences, L window length, B micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np


def windows(flat: np.ndarray, length: int) -> np.ndarray:
    """Cut a token stream [T] into windows [N, length + 1] that predict every token once.

    Consecutive windows share one token: the last target of one is the first input of the next. The
    remainder at the end is dropped.
    """
    n = max(0, (len(flat) - 1) // length)
    starts = np.arange(n)[:, None] * length
    return flat[starts + np.arange(length + 1)[None, :]]


def length_batches(lengths: np.ndarray, max_tokens: int) -> Iterator[np.ndarray]:
    """Indices of sequences of nearly equal length, at most `max_tokens` with their padding.

    `lengths` int [N]; a sequence longer than `max_tokens` makes a batch of its own. Longest first,
    so that the largest batch shows at once whether it fits the memory. Sorting by length before
    cutting keeps padding to a few percent of the tokens.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        size = max(1, max_tokens // longest)
        yield order[start : start + size]
        start += size


def pad_right(sequences: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """Sequences as rows of one int64 array [N, longest], `fill` behind their ends."""
    longest = max(len(s) for s in sequences)
    padded = np.full((len(sequences), longest), fill, np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded
