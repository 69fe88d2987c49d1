"""How much a document resembles what is already selected: the relation term of theta.

theta(x | S) = factor(x | S) * p(x), p the individual influence (method section 3, lower is better).
Legend: N documents of a cluster, D embedding size, S the selected documents, k their number.

Embeddings are rounded to multiples of 2**-20 (`on_grid`). A dot product of two unit vectors is then
a multiple of 2**-40 below 1. float64 holds it, and the sum of up to 2**13 of them, without rounding.
So similarities do not depend on the order of summation, the shape of a matrix product or the number
of threads. Exact duplicates tie exactly. Rounding moves a similarity by about 3e-7, as much as a
float32 dot product of such vectors is in doubt.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, Self

import numpy as np

GRID = 2.0**-20


def on_grid(emb_ND: np.ndarray, dtype: type[np.floating] = np.float64) -> np.ndarray:
    """Embeddings as multiples of 2**-20, whose similarities are exact in float64 (see above).

    float32 holds the same multiples in half the memory, as long as no value reaches 4.
    """
    kind = np.result_type(emb_ND, dtype)
    apart = step_apart(kind)
    rounded = np.add(emb_ND, apart, dtype=kind)
    rounded -= apart
    return rounded.astype(dtype, copy=False)


def step_apart(kind: np.dtype[Any]) -> float:
    """Floats of this size are a grid step apart: to add it and take it away rounds to the grid."""
    return float(1.5 * 2.0 ** np.finfo(kind).nmant * GRID)


class Related(Protocol):
    """What is selected so far, as seen by each of N documents."""

    def add(self, similarity_N: np.ndarray) -> None:
        """Select a document whose similarity to each of the N documents is given, float64."""

    def factor(self) -> np.ndarray:
        """theta / p of each of the N documents, float64; exactly 1 while nothing is selected."""


class MeanRelated:
    """factor = alpha - alpha / (beta k) * sum_{i in S} h_x . h_i (the paper's equation)."""

    def __init__(self, relation: Relation, documents: int) -> None:
        self._relation = relation
        self._total_N = np.zeros(documents)
        self._count = 0

    def add(self, similarity_N: np.ndarray) -> None:
        self._total_N += similarity_N
        self._count += 1

    def factor(self) -> np.ndarray:
        return mean_factor(self._relation, self._total_N, self._count)


class NearestRelated:
    """factor = alpha - alpha / beta * max_{i in S} max(0, h_x . h_i) ** sharpness."""

    def __init__(self, relation: Relation, documents: int) -> None:
        self._relation = relation
        self._nearest_N = np.zeros(documents)  # max(0, .) from the start
        self._sharpened_N = np.zeros(documents)
        self._empty = True

    def add(self, similarity_N: np.ndarray) -> None:
        closer = np.flatnonzero(similarity_N > self._nearest_N)
        self._nearest_N[closer] = similarity_N[closer]
        self._sharpened_N[closer] = similarity_N[closer] ** self._relation.sharpness
        self._empty = False

    def factor(self) -> np.ndarray:
        if self._empty:
            return np.ones_like(self._sharpened_N)
        alpha, beta = self._relation.alpha, self._relation.beta
        return alpha - alpha / beta * self._sharpened_N


@dataclass(frozen=True)
class Relation:
    """A kernel and its fitted parameters, as the influence model's relation.json holds them."""

    kernel: Literal["mean", "nearest"]
    alpha: float
    beta: float
    sharpness: float  # exponent of the nearest kernel

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Self:
        """The relation in relation.json; what else stands there belongs to other stages."""
        return cls(record["kernel"], record["alpha"], record["beta"], record["sharpness"])

    def used_as(self, setting: str, sharpness: float | None = None) -> Relation:
        """What selection takes of it: as "fitted", with "unit" alpha and beta, or "none".

        `sharpness` replaces that of the nearest kernel.
        """
        if setting == "none":
            return NONE
        used = self if sharpness is None else replace(self, sharpness=sharpness)
        return replace(used, alpha=1.0, beta=1.0) if setting == "unit" else used

    def related(self, documents: int) -> Related:
        """The state of this kernel for `documents` documents, nothing selected."""
        if self.kernel == "mean":
            return MeanRelated(self, documents)
        return NearestRelated(self, documents)


def mean_factor(relation: Relation, total_N: np.ndarray, count: int) -> np.ndarray:
    """Factor of the mean kernel where `total_N` is the summed similarity to `count` documents."""
    if count == 0:
        return np.ones_like(total_N)
    return relation.alpha - relation.alpha / (relation.beta * count) * total_N


def nearest_factor(relation: Relation, nearest_N: np.ndarray) -> np.ndarray:
    """Factor of the nearest kernel, something selected; `nearest_N`: largest similarity, at least 0."""
    return relation.alpha - relation.alpha / relation.beta * nearest_N**relation.sharpness


# No relation: every factor is exactly 1, theta is the individual influence.
NONE = Relation("nearest", alpha=1.0, beta=math.inf, sharpness=1.0)
