"""Which documents a rollout visits: at random, or by a beam search with the fitted model.

Legend: N documents, R rollouts, T rollout length, W beam width, E expansion, D embedding size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from groupmates.maths.randomness import generator
from groupmates.maths.relation import Relation

BLOCK_ELEMENTS = 2**25  # of a block of theta [W, N]: 128 MB


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
    are R sets. Fewer come back only where what is left gives no new set. One matrix product
    [W, D] x [D, N] per kernel update and step. `after_step` is called after each step of a search.
    """
    search = _Search(influence_N, emb_ND, relation, beam_width, expansion, capacity_N)
    found = np.empty((0, length), np.int64)
    done: set[bytes] = set()
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
        done |= {np.sort(beam).tobytes() for beam in beams}
        found = np.concatenate([found, beams])
    return found


def theta_next(
    beams: np.ndarray, influence_N: np.ndarray, emb_ND: np.ndarray, relation: Relation
) -> np.ndarray:
    """theta of every document after every beam, float32 [W, N]; infinite for the beam's own."""
    if relation.kernel == "mean":
        related = (emb_ND[beams].sum(axis=1) / beams.shape[1]) @ emb_ND.T
    else:
        related = np.zeros((len(beams), len(emb_ND)), np.float32)
        for member in beams.T:
            np.maximum(related, emb_ND[member] @ emb_ND.T, out=related)
        related **= relation.sharpness
    theta = (relation.alpha - relation.alpha / relation.beta * related) * influence_N
    np.put_along_axis(theta, beams, np.inf, axis=1)
    return theta.astype(np.float32, copy=False)


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
        self, beams: np.ndarray, scores: np.ndarray, seen: set[bytes]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Parents, next documents and scores of the new beams; their sets are added to `seen`.

        Candidates are tried from the best; those whose set was seen, or whose documents have reached
        their cap, are passed over. Where that leaves beams unfilled, every beam's next best documents
        are tried, until the beams are full or nothing is left.
        """
        used = np.zeros_like(self.capacity_N)
        tried: list[tuple[int, int]] = []
        thetas: dict[int, np.ndarray] = {}
        accepted: list[tuple[int, int, float]] = []
        while len(beams) and len(accepted) < self.width:
            open_N = used < self.capacity_N
            candidates, totals = self._candidates(beams, scores, open_N, tried, thetas)
            order = np.argsort(totals, axis=None, kind="stable")
            order = order[np.isfinite(totals.ravel()[order])]
            if not len(order):
                break
            for flat in order.tolist():
                parent, document = flat // totals.shape[1], int(candidates.ravel()[flat])
                tried.append((parent, document))
                members = np.append(beams[parent], document)
                key = np.sort(members).tobytes()
                if key in seen or (used[members] >= self.capacity_N[members]).any():
                    continue
                seen.add(key)
                used[members] += 1
                accepted.append((parent, document, float(totals.ravel()[flat])))
                if len(accepted) == self.width:
                    break
        if not accepted:
            nothing = np.empty(0, np.int64)
            return nothing, nothing, np.empty(0)
        parents, documents, sums = zip(*accepted, strict=True)
        return np.array(parents), np.array(documents), np.array(sums)

    def _candidates(
        self,
        beams: np.ndarray,
        scores: np.ndarray,
        open_N: np.ndarray,
        tried: list[tuple[int, int]],
        thetas: dict[int, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best next documents of every beam and their summed scores, both [W, E].

        Infinite for what is tried already, and wherever the new set would hold a document that is not
        open. Beams go in blocks, so that memory is a block's rows of theta; `thetas` holds those of a
        single block from one try to the next.
        """
        count = min(self.expansion, len(self.influence_N))
        block = max(1, BLOCK_ELEMENTS // len(self.influence_N))
        tried_by = np.array(tried, np.int64).reshape(-1, 2)
        chosen, totals = [], []
        for start in range(0, len(beams), block):
            part = beams[start : start + block]
            theta = thetas.get(start)
            if theta is None:
                theta = theta_next(part, self.influence_N, self.emb_ND, self.relation)
                if block >= len(beams):  # one block: a later try begins where this one ends
                    thetas[start] = theta
            theta[:, ~open_N] = np.inf
            theta[~open_N[part].all(axis=1)] = np.inf
            inside = (tried_by[:, 0] >= start) & (tried_by[:, 0] < start + block)
            theta[tried_by[inside, 0] - start, tried_by[inside, 1]] = np.inf
            best = np.argpartition(theta, count - 1, axis=1)[:, :count]
            chosen.append(best)
            block_scores = scores[start : start + block, None]
            totals.append(block_scores + np.take_along_axis(theta, best, axis=1))
        return np.concatenate(chosen), np.concatenate(totals)
