"""One document against the picks of a greedy order: its theta at every step.

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
