"""Greedy selection by brute force over measured losses, and how many measurements it takes.

Legend: N documents in pool order; losses in nats, lower is better.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def evaluations(picks: int, documents: int, candidates: int | None) -> int:
    """Measurements of `picks` picks: each is of all remaining documents, or of so many candidates."""
    drawn = 0 if candidates is None else min(picks, max(0, documents - candidates))
    left, whole = documents - drawn, picks - drawn
    return drawn * (candidates or 0) + whole * left - whole * (whole - 1) // 2


def most_picks(n_tokens_N: np.ndarray, tokens: int) -> int:
    """Picks until `tokens` are reached where the shortest documents are picked."""
    reached = np.searchsorted(np.cumsum(np.sort(n_tokens_N)), tokens, side="left")
    return min(int(reached) + 1, len(n_tokens_N))


def drawn(left: np.ndarray, candidates: int | None, random: np.random.Generator) -> np.ndarray:
    """`candidates` of the remaining documents at random, in pool order; all where they are fewer.

    The "stochastic greedy" of Mirzasoleiman et al. (2015).
    """
    if candidates is None or candidates >= len(left):
        return left
    return np.sort(random.choice(left, candidates, replace=False))


def greedy(
    documents: int,
    enough: Callable[[list[int]], bool],
    draw: Callable[[int, np.ndarray], np.ndarray],
    measure: Callable[[int, int], float],
    choose: Callable[[int, int], None],
) -> tuple[list[int], np.ndarray]:
    """The picks in their order, and the last measured loss of every document: inf without any.

    `draw(pick, left)`: which of the remaining documents are measured, in pool order.
    `measure(pick, document)`: the loss with that document beside the picks so far.
    `choose(pick, document)`: it is one of them from now on.
    Where losses are equal, the first in the pool's order wins.
    """
    last_N = np.full(documents, np.inf)
    left = np.arange(documents)
    picks: list[int] = []
    while len(left) and not enough(picks):
        among = draw(len(picks), left)
        for document in among.tolist():
            last_N[document] = measure(len(picks), document)
        best = int(among[np.argmin(last_N[among])])
        choose(len(picks), best)
        picks.append(best)
        left = left[left != best]
    return picks, last_N


def keys(picks: list[int], last_N: np.ndarray) -> np.ndarray:
    """Place of every document in the order, float64 [N]: the picks, then the rest by last loss."""
    rest = np.setdiff1d(np.arange(len(last_N)), picks)
    order = np.concatenate(
        [np.array(picks, np.int64), rest[np.argsort(last_N[rest], kind="stable")]]
    )
    key_N = np.empty(len(last_N))
    key_N[order] = np.arange(len(order))
    return key_N
