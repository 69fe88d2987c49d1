"""Greedy group selection inside a cluster (method section 6).

Legend: N documents of the cluster, D embedding size, W documents of a window, K picks that were made,
p individual influence, theta influence given what is selected. Influences: lower is better.

Picks are made among the documents of a window, whose thetas are exact in float64. Lower bounds on all
others prove that none of them comes first. Bounds may come from float32, and allow for its rounding.
"""

from __future__ import annotations

import numpy as np

from groupmates.maths.relation import NONE, Relation, mean_factor, nearest_factor, on_grid

SMALL = 256  # documents of a cluster that is one window
WINDOW = 80  # documents of a window, mean kernel
ADMITTED = 64  # documents that enter a window together, nearest kernel
BLOCK = 64  # documents of a window whose similarities are computed together
SKETCH = 8  # one coordinate in so many tells which documents can be near


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
    picked before; of equal ones the first. Exact: see `relation.on_grid`. Embeddings have at most
    unit length. Memory: 4 bytes D N, and of the nearest kernel 12 bytes D for each document whose
    theta must be known.
    """
    assert np.isfinite(influence_N).all()
    influence_N = influence_N.astype(np.float64)
    stop = len(influence_N) if stop is None else min(stop, len(influence_N))
    if relation == NONE or not stop:
        order = np.argsort(influence_N, kind="stable")[:stop]
        return order, influence_N[order]
    by = _by_looks if relation.kernel == "mean" else _by_admission
    return by(influence_N, on_grid(emb_ND, np.float32), relation, stop)


def _by_looks(
    influence_N: np.ndarray, grid_ND: np.ndarray, relation: Relation, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean kernel: many picks for every look at the whole cluster.

    With s the sum of K picks, theta = p (alpha - c h . s), c = alpha / (beta K). A look is one
    matrix-vector product: every theta, in float32. The picks that follow are made among the WINDOW
    best, and stand as far as a lower bound on the others' theta proves that none comes before them.
    For the bound, the sum t of the picks since the look is split: along the cluster's mean direction
    h . t is known, across it Cauchy-Schwarz limits it.
    """
    size = len(influence_N) if len(influence_N) <= SMALL else WINDOW
    square_N, rounding = _squares(grid_ND)
    along_N = grid_ND @ _direction(grid_ND)
    doubtful_N = np.abs(influence_N) * rounding * abs(relation.alpha / relation.beta)
    known_N = np.abs(influence_N * along_N)
    across_N = np.abs(influence_N) * np.sqrt(np.maximum(square_N - along_N**2, 0.0) + rounding)
    taken_N = np.zeros(len(influence_N))  # infinite where taken
    order, thetas = np.empty(stop, np.int64), np.empty(stop)
    order[0] = influence_N.argmin()
    thetas[0], taken_N[order[0]] = influence_N[order[0]], np.inf
    selected_D = grid_ND[order[0]].astype(np.float64)
    done, ahead = 1, size
    while done < stop:
        total_N = (grid_ND @ selected_D.astype(np.float32)).astype(np.float64)
        theta_N = influence_N * mean_factor(relation, total_N, done) + taken_N
        window = np.sort(_lowest(theta_N, size))  # of equal thetas the first is found first
        others_N = theta_N - doubtful_N
        others_N[window] = np.inf
        limit = others_N.min()

        grid_WD = grid_ND[window].astype(np.float64)
        gram_WW = grid_WD @ grid_WD.T
        influence_W, total_W, taken_W = influence_N[window], grid_WD @ selected_D, taken_N[window]
        before_W = total_W.copy()
        picks: list[int] = []
        found: list[float] = []
        since: list[float] = []  # h . t
        best = (influence_W * mean_factor(relation, total_W, done) + taken_W).min()
        for count in range(done, min(stop, done + ahead)):
            theta_W = influence_W * mean_factor(relation, total_W, count) + taken_W
            at = int(theta_W.argmin())
            if not theta_W[at] < limit:
                break
            picks.append(at)
            found.append(theta_W[at])
            since.append(total_W[at] - before_W[at])
            taken_W[at] = np.inf
            total_W += gram_WW[at]

        certain = len(picks)
        if certain > 1 and limit < np.inf:
            steps = np.arange(certain)
            c = np.abs(relation.alpha / (relation.beta * (done + steps)))
            along = _before(along_N[window[picks]])
            across = _before(gram_WW[picks, picks] + 2 * np.array(since)) - along**2
            across = np.sqrt(np.maximum(across, 0.0) + rounding * steps**2)
            uneven = np.abs(along - along[-1] / steps[-1] * steps)
            # theta changes one way from the first of these picks to the last, but for what is uneven
            # along the mean direction, and what may be across it.
            last_N = total_N + along[-1] * along_N
            last_N = influence_N * mean_factor(relation, last_N, done + certain - 1) - doubtful_N
            bound_N = np.minimum(others_N, last_N)
            bound_N -= (c * uneven).max() * known_N + (c * across).max() * across_N
            bound_N[window] = np.inf
            bound_N += taken_N
            certain = int(np.searchsorted(np.maximum.accumulate(found), bound_N.min()))
        if certain:
            chosen = window[picks[:certain]]
            order[done : done + certain], thetas[done : done + certain] = chosen, found[:certain]
        else:  # equal thetas, or too near to be told in float32: one exact pick
            close = np.flatnonzero(theta_N - doubtful_N <= best)
            total_C = grid_ND[close].astype(np.float64) @ selected_D
            theta_C = influence_N[close] * mean_factor(relation, total_C, done)
            certain, at = 1, int(theta_C.argmin())
            chosen = close[[at]]
            order[done], thetas[done] = close[at], theta_C[at]
        taken_N[chosen] = np.inf
        selected_D += grid_ND[chosen].sum(axis=0, dtype=np.float64)
        done += certain
        ahead = max(8, 2 * certain)
    return order, thetas


def _before(values_K: np.ndarray) -> np.ndarray:
    """Sum of the values before each, float64 [K]."""
    return np.cumsum(values_K, dtype=np.float64) - values_K


def _by_admission(
    influence_N: np.ndarray, grid_ND: np.ndarray, relation: Relation, stop: int
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest kernel: similarities of those documents alone whose turn may come.

    A document enters the window when its lower bound is no longer above the lowest theta there. Then
    its nearest pick is sought, and kept up to date from there on. Where a document's theta can only
    rise with the picks (p alpha / beta <= 0), the bound is theta without any pick near.
    """
    outside = _Outside(influence_N, grid_ND, relation)
    order, thetas = np.empty(stop, np.int64), np.empty(stop)
    order[0] = influence_N.argmin()
    thetas[0] = influence_N[order[0]]
    outside.remove(order[:1])
    window, nearest_W = np.empty(0, np.int64), np.empty(0)
    done = 1
    while done < stop:
        theta_W = influence_N[window] * nearest_factor(relation, nearest_W)
        likely = np.argsort(theta_W, kind="stable")[:BLOCK]
        best = theta_W[likely[0]] if len(likely) else np.inf
        limit = outside.limit(best, order[:done], window[likely])
        if not best < limit:
            new = outside.admit()
            window = np.append(window, new)
            nearest_W = np.append(nearest_W, outside.nearest(new, order[:done]))
            ascending = np.argsort(window)  # of equal thetas the first is found first
            window, nearest_W = window[ascending], nearest_W[ascending]
            continue
        grid_WD = grid_ND[window].astype(np.float64)
        row_of = dict(zip(likely.tolist(), grid_WD[likely] @ grid_WD.T, strict=True))
        influence_W, taken_W = influence_N[window], np.zeros(len(window))
        at = int(likely[0])
        while at in row_of and theta_W[at] < limit:
            order[done], thetas[done], taken_W[at] = window[at], theta_W[at], np.inf
            done += 1
            if done == stop:
                break
            np.maximum(nearest_W, row_of[at], out=nearest_W)
            theta_W = influence_W * nearest_factor(relation, nearest_W) + taken_W
            at = int(theta_W.argmin())
        window, nearest_W = window[taken_W == 0], nearest_W[taken_W == 0]
    return order, thetas


class _Outside:
    """Lower bounds on theta of the documents outside the window, nearest kernel.

    Documents whose theta falls with the picks are bounded by how near a pick can be: at first as near
    as a copy. When that no longer keeps them outside, some coordinates are compared with those of
    every pick, and Cauchy-Schwarz limits the rest.
    """

    def __init__(self, influence_N: np.ndarray, grid_ND: np.ndarray, relation: Relation) -> None:
        documents, size = grid_ND.shape
        self._influence_N, self._grid_ND, self._relation = influence_N, grid_ND, relation
        self._together = documents if documents <= SMALL else ADMITTED
        self._square_N, self._rounding = _squares(grid_ND)
        self._falls_N = influence_N * (relation.alpha / relation.beta) > 0
        self._nearest_N = np.where(self._falls_N, float(self._square_N.max()) + self._rounding, 0.0)
        self._bound_N = influence_N * nearest_factor(relation, self._nearest_N)
        self._sketch_NS = grid_ND[:, : max(1, size // SKETCH)]
        self._rest_N: np.ndarray | None = None  # lengths of what is not in the sketch
        self._compared_N = np.zeros(documents, bool)

    def remove(self, documents: np.ndarray) -> None:
        self._bound_N[documents] = np.inf

    def limit(self, best: float, picks: np.ndarray, next_picks: np.ndarray) -> float:
        """No theta outside is below this while `next_picks` are added to `picks`."""
        lowest = int(self._bound_N.argmin())
        if self._rest_N is None:
            if best < self._bound_N[lowest] or not self._falls_N[lowest]:
                return float(self._bound_N[lowest])
            rest_N = self._square_N - np.square(self._sketch_NS).sum(axis=1)
            self._rest_N = np.sqrt(np.maximum(rest_N, 0.0) + self._rounding)
            self._nearest_N[:] = 0.0
        self._compare(np.append(picks, next_picks))
        return float(self._bound_N.min())

    def _compare(self, picks: np.ndarray) -> None:
        """Lower the bounds by what these picks may be near to."""
        assert self._rest_N is not None
        new = picks[~self._compared_N[picks]]
        self._compared_N[new] = True
        falls = np.flatnonzero(self._falls_N & np.isfinite(self._bound_N))
        for start in range(0, len(new), BLOCK):
            part = new[start : start + BLOCK]
            near = self._sketch_NS[falls] @ self._sketch_NS[part].T
            near += self._rest_N[falls, None] * self._rest_N[part]
            nearest = near.max(axis=1, initial=0.0) + self._rounding
            self._nearest_N[falls] = np.maximum(self._nearest_N[falls], nearest)
        factor = nearest_factor(self._relation, self._nearest_N[falls])
        self._bound_N[falls] = self._influence_N[falls] * factor

    def admit(self) -> np.ndarray:
        """The documents of the lowest bounds, which leave."""
        new = _lowest(self._bound_N, self._together)
        new = new[np.isfinite(self._bound_N[new])]
        self.remove(new)
        return new

    def nearest(self, documents: np.ndarray, picks: np.ndarray) -> np.ndarray:
        """Largest similarity of each to the picks, at least 0, float64.

        float32 tells which picks may be the nearest; theirs are computed in float64.
        """
        one_ND, other_ND = self._grid_ND[documents], self._grid_ND[picks]
        near = one_ND @ other_ND.T
        of, pick = np.nonzero(near >= near.max(axis=1, keepdims=True) - self._rounding / 2)
        if len(of) > 8 * len(documents):  # copies
            near = one_ND.astype(np.float64) @ other_ND.astype(np.float64).T
            nearest: np.ndarray = near.max(axis=1, initial=0.0)
            return nearest
        one, other = one_ND[of].astype(np.float64), other_ND[pick].astype(np.float64)
        nearest = np.zeros(len(documents))
        np.maximum.at(nearest, of, np.einsum("pd,pd->p", one, other))
        return nearest


def _squares(grid_ND: np.ndarray) -> tuple[np.ndarray, float]:
    """Squared lengths, float32 [N]; a bound on the error of similarities, four times over.

    Of a float32 dot product of D terms in any order: D 2**-24 of the product of the lengths.
    """
    square_N = np.einsum("nd,nd->n", grid_ND, grid_ND)
    return square_N, (grid_ND.shape[1] + 4) * 2.0**-22 * float(square_N.max())


def _direction(grid_ND: np.ndarray) -> np.ndarray:
    """The mean direction, a unit vector, float32 [D]."""
    sum_D = grid_ND.sum(axis=0, dtype=np.float64)
    return (sum_D / (np.linalg.norm(sum_D) or 1.0)).astype(np.float32)


def _lowest(values_N: np.ndarray, count: int) -> np.ndarray:
    """Indices of the `count` lowest values (of all, where there are fewer), in no order."""
    if count >= len(values_N):
        return np.arange(len(values_N))
    return np.argpartition(values_N, count)[:count]
