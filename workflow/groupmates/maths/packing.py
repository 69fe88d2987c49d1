"""Token sequences put together without padding, or with as little as can be.

Legend: N sequences, L window length, B micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Of a backward pass, at most: at a vocabulary of 50,000 their float32 logits take 3 GB.
MICRO_TOKENS = 16_384


def windows(flat: np.ndarray, length: int) -> np.ndarray:
    """Cut a token stream [T] into windows [N, length + 1] that predict every token once.

    Consecutive windows share one token: the last target of one is the first input of the next. The
    remainder at the end is dropped. A read-only view of `flat`: no token is copied.
    """
    if len(flat) <= length:
        return np.empty((0, length + 1), flat.dtype)
    return sliding_window_view(flat, length + 1)[::length]


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
