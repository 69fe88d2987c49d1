"""One document against the picks of a greedy order: its theta at every step, where it would stand.

Legend: K picks in their order, D embedding size. Influences: lower is better.
"""

from __future__ import annotations

import numpy as np

from groupmates.maths.relation import Relation, on_grid


def thetas_along(
    influence: float, emb_D: np.ndarray, picked_KD: np.ndarray, relation: Relation
) -> np.ndarray:
    """theta of a document given the first 0, 1, …, K picks, float64 [K + 1].

    Bit by bit what `greedy_order` computes for it at that step: similarities are exact. `influence`
    is what the greedy sees, see `greedy.gains`.
    """
    related = relation.related(1)
    factors = [related.factor()]
    for similarity in on_grid(picked_KD) @ on_grid(emb_D):
        related.add(np.array([similarity]))
        factors.append(related.factor())
    thetas: np.ndarray = influence * np.concatenate(factors)
    return thetas


def rank_among(theta_K1: np.ndarray, picked_theta_K: np.ndarray) -> int:
    """The step at which a document would be picked; K where every pick comes before it.

    `theta_K1` are its thetas of `thetas_along`. At equal theta the document of the pool is first.
    """
    before = np.flatnonzero(theta_K1[:-1] < picked_theta_K)
    return int(before[0]) if len(before) else len(picked_theta_K)
