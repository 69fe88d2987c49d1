"""Greedy group selection inside a cluster (method section 6).

Legend: N documents of the cluster, D embedding size, W documents of a window, p individual
influence, theta influence given what is selected. Influences: lower is better.
"""

from __future__ import annotations

import numpy as np

from groupmates.maths.relation import NONE, Relation, mean_factor, on_grid

BLOCK = 64  # similarity rows that are computed at once
WINDOW = 160  # candidates between two looks at the whole cluster
SLACK = 1e-9  # more than the rounding of a bound


def gains(influence_N: np.ndarray, sign: str, maximum: float) -> np.ndarray:
    """Individual influences as the greedy sees them, float64.

    `paper`: unchanged. A factor below 1 shrinks a harmful (positive) influence too, so that among
    harmful documents duplicates of the selected are preferred. `ceiling`: measured from `maximum`,
    the pool's worst; every influence is then a gain <= 0 and resemblance only ever costs.
    """
    influence_N = influence_N.astype(np.float64)
    return influence_N - maximum if sign == "ceiling" else influence_N


def greedy_order(
    influence_N: np.ndarray, emb_ND: np.ndarray, relation: Relation, stop: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The first `stop` picks (all by default), int64 [stop], and theta of each when it was picked.

    First the document of lowest p, then repeatedly the remaining one of lowest theta given those
    picked before; of equal ones the first. Exact: see `relation.on_grid`. Memory: 16 bytes D N.
    """
    assert np.isfinite(influence_N).all()
    influence_N = influence_N.astype(np.float64)
    stop = len(influence_N) if stop is None else min(stop, len(influence_N))
    if relation == NONE:
        order = np.argsort(influence_N, kind="stable")[:stop]
        return order, influence_N[order]
    mean_of_many = relation.kernel == "mean" and len(influence_N) > WINDOW
    by = _by_window if mean_of_many else _by_rows
    return by(influence_N, on_grid(emb_ND), relation, stop)


def _by_rows(
    influence_N: np.ndarray, grid_ND: np.ndarray, relation: Relation, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """Any kernel: every pick needs its similarities to the whole cluster, O(N D).

    A matrix product is several times faster than as many matrix-vector products, so the rows of the
    BLOCK documents that are likely to be next are computed together: 8 bytes BLOCK N of memory.
    """
    related = relation.related(len(influence_N))
    taken_N = np.zeros(len(influence_N))  # infinite where taken
    order, thetas = np.empty(stop, np.int64), np.empty(stop)
    row_of: dict[int, int] = {}
    for step in range(stop):
        theta_N = influence_N * related.factor() + taken_N
        pick = int(theta_N.argmin())
        if pick not in row_of:
            near = np.append(_lowest(theta_N, BLOCK), pick)
            rows = grid_ND[near] @ grid_ND.T
            row_of = {int(document): row for row, document in enumerate(near)}
        order[step], thetas[step] = pick, theta_N[pick]
        taken_N[pick] = np.inf
        related.add(rows[row_of[pick]])
    return order, thetas


def _by_window(
    influence_N: np.ndarray, grid_ND: np.ndarray, relation: Relation, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean kernel: many picks per look at the whole cluster.

    With s the sum of the selected embeddings, theta = p (alpha - c h . s), c = alpha / (beta k):
    one matrix-vector product gives every theta and the first pick. The picks that follow are made
    among the WINDOW best, as long as a lower bound proves that no document outside can be next.
    For the bound, t, the sum of the picks since, is split: along the cluster's mean direction
    h . t is known, across it Cauchy-Schwarz limits it. 1500 picks of 3000 took 12 looks.
    """
    along_N, across_N, centre_D = _split_by_centre(grid_ND)
    selected_D = np.zeros(grid_ND.shape[1])
    taken_N = np.zeros(len(influence_N))  # infinite where taken
    order, thetas = np.empty(stop, np.int64), np.empty(stop)
    done = 0
    while done < stop:
        total_N = grid_ND @ selected_D
        theta_N = influence_N * mean_factor(relation, total_N, done) + taken_N
        pick = int(theta_N.argmin())
        theta = theta_N[pick]

        in_window_N = np.zeros(len(influence_N), bool)
        in_window_N[_lowest(theta_N, WINDOW)] = True
        in_window_N[pick] = True
        window = np.flatnonzero(in_window_N)  # ascending: of equal thetas the first is found first
        outside = np.flatnonzero(~in_window_N & (taken_N == 0))
        influence_W, total_W, taken_W = influence_N[window], total_N[window], taken_N[window]
        grid_WD = grid_ND[window]
        gram_WW = grid_WD @ grid_WD.T
        at = int(np.searchsorted(window, pick))
        p = influence_N[outside]
        terms = np.stack(
            [
                p * relation.alpha,
                p * total_N[outside],
                p * along_N[outside],
                np.abs(p) * across_N[outside],
            ]
        )
        since_D = np.zeros_like(selected_D)
        while True:
            order[done], thetas[done] = pick, theta
            done += 1
            taken_N[pick] = taken_W[at] = np.inf
            total_W += gram_WW[at]
            since_D += grid_ND[pick]
            if done == stop:
                break
            theta_W = influence_W * mean_factor(relation, total_W, done) + taken_W
            at = int(theta_W.argmin())
            pick, theta = int(window[at]), theta_W[at]
            along = centre_D @ since_D
            across = np.sqrt(np.maximum(since_D @ since_D - along**2, 0.0) + SLACK)
            c = relation.alpha / (relation.beta * done)
            bound = np.array([1.0, -c, -c * along, -abs(c) * across]) @ terms
            if not theta < bound.min(initial=np.inf) - SLACK:
                break
        selected_D += since_D
    return order, thetas


def _lowest(values_N: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` lowest values (of all, where there are fewer), in no order."""
    if count >= len(values_N):
        return np.arange(len(values_N))
    return np.argpartition(values_N, count)[:count]


def _split_by_centre(grid_ND: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Length of each embedding along and (at most) across the mean direction; that direction."""
    centre_D = grid_ND.sum(axis=0)
    centre_D /= np.linalg.norm(centre_D) or 1.0
    along_N = grid_ND @ centre_D
    square_N = np.einsum("nd,nd->n", grid_ND, grid_ND)
    return along_N, np.sqrt(np.maximum(square_N - along_N**2, 0.0) + SLACK), centre_D
