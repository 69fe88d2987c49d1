"""Token sequences put together without padding, or with as little as can be.

Legend: N sequences, L window length, B micro-batches.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

# Of a backward pass, at most: at a vocabulary of 50,000 their float32 logits take 3 GB.
MICRO_TOKENS = 16_384
# Gradients of single documents that a GPU holds at once, at most: 16 GB in float32.
GRADIENT_VALUES = 4e9
# Documents, and float64 similarities, that a GPU holds at once for the exact parts of k-means.
KMEANS_DOCUMENTS, KMEANS_SIMILARITIES = 1 << 16, 1 << 26


def windows(flat: np.ndarray, length: int) -> np.ndarray:
    """Cut a token stream [T] into windows [N, length + 1] that predict every token once.

    Consecutive windows share one token: the last target of one is the first input of the next. The
    remainder at the end is dropped. A read-only view of `flat`: no token is copied.
    """
    if len(flat) <= length:
        return np.empty((0, length + 1), flat.dtype)
    return sliding_window_view(flat, length + 1)[::length]


def length_batches(
    lengths: np.ndarray, max_tokens: int, max_padding: int | None = None
) -> Iterator[np.ndarray]:
    """Indices of sequences of nearly equal length, at most `max_tokens` with their padding.

    `lengths` int [N]; a sequence longer than `max_tokens` makes a batch of its own. Longest first,
    so that the largest batch shows at once whether it fits the memory. Sorting by length before
    cutting keeps padding to a few percent of the tokens, where sequences make many batches. Where
    they make few, `max_padding` tokens of a batch do: about the work that another batch costs.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        batch = order[start : start + max(1, max_tokens // longest)]
        if max_padding is not None:
            padding = np.cumsum(longest - lengths[batch])
            batch = batch[: max(1, int(np.searchsorted(padding, max_padding, "right")))]
        yield batch
        start += len(batch)


def pad_right(sequences: Sequence[np.ndarray], fill: int) -> np.ndarray:
    """Sequences as rows of one int64 array [N, longest], `fill` behind their ends."""
    longest = max(len(s) for s in sequences)
    padded = np.full((len(sequences), longest), fill, np.int64)
    for row, sequence in zip(padded, sequences, strict=True):
        row[: len(sequence)] = sequence
    return padded


def window_pieces(
    length_N: np.ndarray, order_W: np.ndarray, window: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Which part of which document each window of a stream has.

    N documents of `length_N` tokens lie behind each other, cut into windows of `window` tokens. What is
    left at the end is in none. `order_W` names windows by their number, in the order in which they are
    written. Returns int64 [P], sorted by the first two: a window's place in that order, where in it
    the piece begins, the piece's tokens, and its document.
    """
    start_N = np.cumsum(length_N, dtype=np.int64) - length_N
    first_N, last_N = start_N // window, (start_N + length_N - 1) // window
    count_N = np.where(length_N > 0, last_N - first_N + 1, 0)
    document_P = np.repeat(np.arange(len(length_N)), count_N)
    nth_P = np.arange(len(document_P)) - np.repeat(np.cumsum(count_N) - count_N, count_N)
    window_P = first_N[document_P] + nth_P
    written = window_P < len(order_W)
    document_P, window_P = document_P[written], window_P[written]
    begin_P = np.maximum(start_N[document_P], window_P * window)
    end_P = np.minimum((start_N + length_N)[document_P], (window_P + 1) * window)
    place_W = np.empty(len(order_W), np.int64)
    place_W[order_W] = np.arange(len(order_W))
    place_P, within_P = place_W[window_P], begin_P - window_P * window
    sorted_P = np.lexsort((within_P, place_P))
    tokens_P = end_P - begin_P
    return place_P[sorted_P], within_P[sorted_P], tokens_P[sorted_P], document_P[sorted_P]


def predicted_tokens(
    length_N: np.ndarray, count_W: np.ndarray, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """What a training on `windows(flat, length)` has seen of each document: int64 [N], twice.

    N documents of `length_N` tokens lie behind each other in `flat`; `count_W` tells how often each
    window was trained on. Returns in how many of these windows a token of the document was predicted,
    and how many tokens. The tokens add up to `length` for every window that was trained on.
    """
    if not len(length_N):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    # The first token of the stream is not predicted; after it, windows part the rest.
    targets_N = length_N - (np.arange(len(length_N)) == 0)
    window_P, _, tokens_P, document_P = window_pieces(targets_N, np.arange(len(count_W)), length)
    count_P = count_W[window_P]
    windows_N, tokens_N = np.zeros((2, len(length_N)), np.int64)
    np.add.at(windows_N, document_P, count_P)
    np.add.at(tokens_N, document_P, count_P * tokens_P)
    return windows_N, tokens_N
