"""Sets of documents: drawing them, their predicted group influence, its agreement with the truth.

Legend: N documents, S sets, L documents of the largest size, D embedding size, P predictors, B draws
of the bootstrap. A set of a smaller size is the first documents of the largest. Lower is better.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

from groupmates.maths.labels import LabelScale
from groupmates.maths.randomness import generator
from groupmates.maths.relation import Relation, on_grid


def random_sets(documents: int, sets: int, length: int, seed: int) -> np.ndarray:
    """Distinct documents drawn at random, int64 [S, L]; set s depends on (seed, s) alone."""
    drawn = (generator(seed, "random set", s) for s in range(sets))
    return np.stack([g.choice(documents, length, replace=False) for g in drawn])


def near_sets(emb_ND: np.ndarray, sets: int, length: int, seed: int) -> np.ndarray:
    """A random document and the documents most similar to it, nearest first, int64 [S, L].

    Similarity is h_x . h_i, as in the relation; of equal ones the first row is taken.
    """
    first_S = np.array([generator(seed, "near set", s).integers(len(emb_ND)) for s in range(sets)])
    emb_ND = on_grid(emb_ND)
    similarity_SN = emb_ND[first_S] @ emb_ND.T
    similarity_SN[np.arange(sets), first_S] = np.inf  # itself, before any copy of it
    return np.argsort(-similarity_SN, axis=1, kind="stable")[:, :length]


def set_theta(relation: Relation, individual_L: np.ndarray, emb_LD: np.ndarray) -> np.ndarray:
    """theta(x_t | x_1 ... x_{t-1}) of the documents of a set in their order, float64 [L]."""
    emb_LD = on_grid(emb_LD)
    similarity_LL = emb_LD @ emb_LD.T
    related = relation.related(len(emb_LD))
    theta_L = np.empty(len(emb_LD))
    for t, influence in enumerate(individual_L):
        theta_L[t] = related.factor()[t] * influence
        related.add(similarity_LL[t])
    return theta_L


def group_influence(
    relation: Relation, individual_L: np.ndarray, emb_LD: np.ndarray, scale: LabelScale
) -> np.ndarray:
    """Predicted influence of the first 1 ... L documents of a set as a group, nats, float64 [L].

    The sum over its steps of mean_t + std_t theta_t: a label that is standardised by its position
    counts as much as that position's influences vary. Steps past the rollouts' length are as the last.
    """
    theta_L = set_theta(relation, individual_L, emb_LD)
    return np.cumsum(scale.extended(len(theta_L)).to_nats(theta_L))


def nearest_earlier(emb_LD: np.ndarray) -> float:
    """Mean over the steps after the first of the similarity to the nearest document before."""
    similarity_LL = np.where(np.tri(len(emb_LD), k=-1) > 0, emb_LD @ emb_LD.T, -np.inf)
    return float(similarity_LL[1:].max(1).mean())


def agreement(
    truth_S: np.ndarray, predicted_PS: np.ndarray, random: np.random.Generator, draws: int = 1000
) -> tuple[np.ndarray, np.ndarray]:
    """Spearman correlation of every prediction with the truth [P], and of sets drawn anew [B, P].

    All predictions meet the same draws, so that their differences are paired.
    """
    sets = len(truth_S)
    rows_BS = np.concatenate([np.arange(sets)[None], random.integers(0, sets, (draws, sets))])
    truth_BS = _standard_ranks(truth_S[rows_BS])
    found_PB = [(truth_BS * _standard_ranks(p[rows_BS])).sum(1) for p in predicted_PS]
    found_BP = np.clip(np.stack(found_PB, axis=1), -1, 1)  # rounding
    return found_BP[0], found_BP[1:]


def _standard_ranks(values_BS: np.ndarray) -> np.ndarray:
    """Ranks within each row, centred and of unit length; zeros where all values are equal."""
    ranks_BS = rankdata(values_BS, axis=1)
    ranks_BS -= ranks_BS.mean(1, keepdims=True)
    norm_B1 = np.linalg.norm(ranks_BS, axis=1, keepdims=True)
    return ranks_BS / np.where(norm_B1 > 0, norm_B1, 1.0)
