"""Which documents a rollout visits: at random, or by a beam search with the fitted model.

Legend: N documents, R rollouts, T rollout length, W beam width, E expansion, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from groupmates.maths.randomness import generator
from groupmates.maths.relation import Relation

# Of a block of theta [W, M]: 2 MB, which a core's cache holds.
BLOCK_ELEMENTS = 2**19
# Documents are looked at in parts, those of the lowest bounds first.
PARTS = 32
# A part has at least so many times the documents that are kept of a beam.
LEAST = 16
KEPT = 8  # times the expansion: documents that are kept for each beam


def random_rollouts(n_documents: int, rollouts: int, length: int, seed: int) -> np.ndarray:
    """Documents int64 [R, T], distinct within a rollout; rollout r depends on (seed, r) alone."""
    drawn = (generator(seed, "rollout", r) for r in range(rollouts))
    return np.stack([g.choice(n_documents, length, replace=False) for g in drawn])


def beam_rollouts(
    influence_N: np.ndarray,
    emb_ND: np.ndarray,
    relation: Relation,
    rollouts: int,
    length: int,
    beam_width: int,
    expansion: int,
    capacity_N: np.ndarray,
    after_step: Callable[[], object] = lambda: None,
) -> np.ndarray:
    """Distinct sets of low predicted group influence, int64 [R, T] (method.md section 4).

    A beam is a sequence of documents with the sum of its thetas. Each step tries the `expansion`
    best next documents of every beam and keeps the `beam_width` best sequences. A set counts once,
    whatever its order. No document appears more than `capacity_N` times in the beams of a step, so
    the finished beams are sets that cover the tail widely. The first step takes the
    documents of lowest individual influence. For the most harmful sets give minus the influences:
    theta is linear in them.

    `capacity_N` int [N] is lowered in place by the documents used. Under a low cap beams block each
    other and few are finished: the search is repeated with the capacity that is left until there
    are R sets. Fewer come back only where what is left gives no new set. At most one matrix product
    [W, D] x [D, N] per kernel update and step, unless beams run out of kept documents. `after_step`
    is called after each step of a search.
    """
    search = _Search(influence_N, emb_ND, relation, beam_width, expansion, capacity_N)
    found = np.empty((0, length), np.int64)
    done: set[tuple[int, ...]] = set()
    while len(found) < rollouts:
        first = np.argsort(influence_N, kind="stable")
        first = first[capacity_N[first] > 0][:beam_width]
        beams, scores = first[:, None], influence_N[first].astype(np.float64)
        for step in range(2, length + 1):
            seen = set(done) if step == length else set()
            parents, documents, scores = search.expand(beams, scores, seen)
            beams = np.concatenate([beams[parents], documents[:, None]], axis=1)
            after_step()
        if not len(beams):
            break
        beams = beams[np.argsort(scores, kind="stable")[: rollouts - len(found)]]
        np.subtract.at(capacity_N, beams.ravel(), 1)
        done |= {tuple(beam) for beam in np.sort(beams, axis=1).tolist()}
        found = np.concatenate([found, beams])
    return found


class Thetas:
    """theta of these M `documents` after beams of a step.

    A block of it lies where the block before did, so that it stays in the processor's cache.
    """

    def __init__(
        self,
        influence_N: np.ndarray,
        emb_ND: np.ndarray,
        relation: Relation,
        documents: np.ndarray,
    ) -> None:
        self._emb_ND, self._relation = emb_ND, relation
        self._emb_MD, self._influence_M = emb_ND[documents], influence_N[documents]
        self.column_N = np.full(len(emb_ND), -1)  # -1: not of these documents
        self.column_N[documents] = np.arange(len(documents))
        self._memory = np.empty(0, np.float32)

    def after(self, beams: np.ndarray) -> np.ndarray:
        """theta float32 [W, M]; infinite for the beam's own documents. The next call overwrites it."""
        emb_ND, relation, shape = self._emb_ND, self._relation, (len(beams), len(self._emb_MD))
        if self._memory.size < (size := shape[0] * shape[1]):
            self._memory = np.empty(size, np.float32)
        theta = self._memory[:size].reshape(shape)
        if relation.kernel == "mean":
            np.matmul(emb_ND[beams].sum(axis=1) / beams.shape[1], self._emb_MD.T, out=theta)
        else:
            theta[:] = 0
            for member in beams.T:
                np.maximum(theta, emb_ND[member] @ self._emb_MD.T, out=theta)
            theta **= relation.sharpness
        theta *= relation.alpha / relation.beta
        np.subtract(relation.alpha, theta, out=theta)
        theta *= self._influence_M
        beam, member = np.nonzero(self.column_N[beams] >= 0)
        theta[beam, self.column_N[beams[beam, member]]] = np.inf
        return theta


@dataclass(frozen=True)
class _Search:
    """What all steps of a beam search share."""

    influence_N: np.ndarray
    emb_ND: np.ndarray
    relation: Relation
    width: int
    expansion: int
    capacity_N: np.ndarray

    def expand(
        self, beams: np.ndarray, scores: np.ndarray, seen: set[tuple[int, ...]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parents, next documents and scores of the new beams; their sets are added to `seen`.

        Candidates are tried from the best; those whose set was seen, or whose documents have reached
        their cap, are passed over. Where that leaves beams unfilled, every beam's next best documents
        are tried, until the beams are full or nothing is left.
        """
        used, capacity = [0] * len(self.capacity_N), self.capacity_N.tolist()
        members = beams.tolist()
        queue = _Queue(self, beams)
        accepted: list[tuple[int, int, float]] = []
        while len(beams) and len(accepted) < self.width:
            parents, documents, thetas = queue.take(np.array(used) < self.capacity_N)
            if not len(parents):
                break
            totals = scores[parents] + thetas
            order = np.argsort(totals, kind="stable")
            candidates = (values[order].tolist() for values in (parents, documents, totals))
            for parent, document, total in zip(*candidates, strict=True):
                if used[document] >= capacity[document]:
                    continue
                if any(used[member] >= capacity[member] for member in members[parent]):
                    continue
                key = tuple(sorted([*members[parent], document]))
                if key in seen:
                    continue
                seen.add(key)
                for member in key:
                    used[member] += 1
                accepted.append((parent, document, total))
                if len(accepted) == self.width:
                    break
        if not accepted:
            nothing = np.empty(0, np.int64)
            return nothing, nothing, np.empty(0)
        new_parents, new_documents, sums = zip(*accepted, strict=True)
        return np.array(new_parents), np.array(new_documents), np.array(sums)

    def lowest_theta(self, beams: np.ndarray) -> np.ndarray:
        """A lower bound on theta of every document after any of these beams, float64 [N].

        Mean kernel: along the pool's mean direction the similarity to a beam's mean is known, across
        it Cauchy-Schwarz limits it. The slack is more than the rounding of theta.
        """
        emb_ND, relation = self.emb_ND, self.relation
        square_N = np.einsum("nd,nd->n", emb_ND, emb_ND)
        slack = 1e-3 * float(square_N.max())
        if relation.kernel == "mean":
            mean_WD = sum(emb_ND[member] for member in beams.T) / beams.shape[1]
            centre_D = emb_ND.mean(axis=0)
            centre_D /= np.linalg.norm(centre_D) or 1.0
            (along_N, across_N), (along_W, across_W) = (
                _split(emb, centre_D) for emb in (emb_ND, mean_WD)
            )
            ends = np.stack([along_N * along_W.min(), along_N * along_W.max()])
            off = across_N * across_W.max() + slack
            related = np.stack([ends.min(axis=0) - off, ends.max(axis=0) + off])
        else:
            most = (float(square_N.max()) + slack) ** relation.sharpness + slack
            related = np.array([[-slack], [most]])
        factors = relation.alpha - relation.alpha / relation.beta * related
        lowest: np.ndarray = (factors * self.influence_N.astype(np.float64)).min(axis=0)
        return lowest


def _split(emb: np.ndarray, centre_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of vectors along a unit vector and across it."""
    along = emb @ centre_D
    return along, np.sqrt(np.maximum(np.square(emb).sum(axis=1) - along**2, 0.0) + 1e-5)


class _Queue:
    """The next documents of every beam of a step, best first. KEPT times the expansion are kept.

    theta is computed of the documents of the lowest bounds, as far as a beam's best may lie among them.
    A beam that runs out is computed anew.
    """

    def __init__(self, search: _Search, beams: np.ndarray) -> None:
        self._search, self._beams = search, beams
        self._kept = min(KEPT * search.expansion, len(search.influence_N))
        self._documents = np.zeros((len(beams), self._kept), np.int64)
        self._thetas = np.full((len(beams), self._kept), np.inf, np.float32)
        self._taken = np.empty((2, 0), np.int64)  # beams, and documents that they gave
        self._more = np.full(len(beams), True)  # whether there may be more than is kept
        self._lowest_N = search.lowest_theta(beams) if len(beams) else np.empty(0)

    def take(self, open_N: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Beams, documents and thetas [.]: the `expansion` best of every beam not taken before.

        By beam, then by theta. Nothing of a beam that holds, or would hold, a document not open.
        """
        alive = open_N[self._beams].all(axis=1)
        self._thetas[~alive] = np.inf
        self._thetas[~open_N[self._documents]] = np.inf
        short = np.isfinite(self._thetas).sum(axis=1) < self._search.expansion
        if (rows := np.flatnonzero(short & alive & self._more)).size:
            self._refill(rows, open_N)
        left = np.isfinite(self._thetas)
        beam, place = np.nonzero(left & (left.cumsum(axis=1) <= self._search.expansion))
        taken = self._documents[beam, place], self._thetas[beam, place]
        self._thetas[beam, place] = np.inf
        self._taken = np.concatenate([self._taken, [beam, taken[0]]], axis=1)
        return beam, *taken

    def _refill(self, rows: np.ndarray, open_N: np.ndarray) -> None:
        """Keep the best open documents of these beams that were not taken.

        Documents of the lowest bounds come first. A beam is done when its worst kept document lies
        below the bounds of all that are left.
        """
        self._thetas[rows] = np.inf
        opened = np.flatnonzero(open_N)
        opened = opened[np.argsort(self._lowest_N[opened], kind="stable")]
        few = len(rows) * len(opened) <= BLOCK_ELEMENTS
        part = len(opened) if few else max(len(opened) // PARTS, LEAST * self._kept)
        search = self._search
        for start in range(0, len(opened), part):
            if not len(rows):
                break
            end = start + part
            among = np.sort(opened[start:end])
            thetas = Thetas(search.influence_N, search.emb_ND, search.relation, among)
            block = max(1, BLOCK_ELEMENTS // len(among))
            for first in range(0, len(rows), block):
                self._keep(rows[first : first + block], thetas, among)
            if end < len(opened):
                rows = rows[self._thetas[rows, -1] >= self._lowest_N[opened[end]]]
        self._more[rows] = np.isfinite(self._thetas[rows, -1])

    def _keep(self, rows: np.ndarray, thetas: Thetas, among: np.ndarray) -> None:
        """Keep the best of the documents `among` and of those that are kept."""
        theta = thetas.after(self._beams[rows])
        row_W = np.full(len(self._beams), -1)
        row_W[rows] = np.arange(len(rows))
        beam, document = self._taken
        row, column = row_W[beam], thetas.column_N[document]
        here = (row >= 0) & (column >= 0)
        theta[row[here], column[here]] = np.inf
        count = min(self._kept, len(among))
        best = np.argpartition(theta, count - 1, axis=1)[:, :count]
        documents = np.concatenate([self._documents[rows], among[best]], axis=1)
        values = np.concatenate(
            [self._thetas[rows], np.take_along_axis(theta, best, axis=1)], axis=1
        )
        # Of equal thetas that are kept the first document is taken first.
        kept = np.lexsort((documents, values))[:, : self._kept]
        self._documents[rows] = np.take_along_axis(documents, kept, axis=1)
        self._thetas[rows] = np.take_along_axis(values, kept, axis=1)
