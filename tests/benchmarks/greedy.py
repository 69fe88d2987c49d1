"""Seconds of greedy selection per cluster, against one that recomputes the relation at each pick.

    PYTHONPATH=workflow python tests/benchmarks/greedy.py [--repeats 3]

Synthetic clusters: a common direction plus noise (mean cosine 0.5), normal influences, half of the
documents picked. Both sides in one process, alternating; one thread unless OMP_NUM_THREADS says
otherwise. The picks are compared: the straightforward one computes in float32.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from groupmates.maths.greedy import greedy_order
from groupmates.maths.relation import Relation

Order = Callable[[np.ndarray, np.ndarray, Relation, int], np.ndarray]


def straightforward(
    influence_N: np.ndarray, emb_ND: np.ndarray, relation: Relation, stop: int
) -> np.ndarray:
    """A row of similarities, a masked copy and an argmin over the whole cluster at every pick."""
    taken_N = np.zeros(len(influence_N), bool)
    related_N = np.zeros(len(influence_N), np.float32)
    order: list[int] = []
    for _ in range(stop):
        factor_N = np.ones_like(related_N)
        if order and relation.kernel == "mean":
            factor_N = relation.alpha - relation.alpha / (relation.beta * len(order)) * related_N
        elif order:
            factor_N = (
                relation.alpha - relation.alpha / relation.beta * related_N**relation.sharpness
            )
        pick = int(np.argmin(np.where(taken_N, np.inf, factor_N * influence_N)))
        taken_N[pick] = True
        order.append(pick)
        similarity_N = emb_ND @ emb_ND[pick]
        if relation.kernel == "mean":
            related_N += similarity_N
        else:
            np.maximum(related_N, similarity_N, out=related_N)
    return np.array(order)


def cluster(documents: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(documents * size)
    emb = rng.normal(size=(documents, size)) + rng.normal(size=size)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    return rng.normal(size=documents).astype(np.float32), emb.astype(np.float32)


def seconds(order: Order, *arguments: object) -> tuple[float, np.ndarray]:
    start = time.perf_counter()
    picks = order(*arguments)  # type: ignore[arg-type]
    return time.perf_counter() - start, picks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    print("kernel   documents  size  straightforward ms  greedy_order ms  ratio  same picks")
    for kernel in ("mean", "nearest"):
        relation = Relation(kernel, 1.0, 1.0, 64.0)  # type: ignore[arg-type]
        for documents in (500, 1000, 3000):
            for size in (384, 768):
                arguments = (*cluster(documents, size), relation, documents // 2)
                slow, fast = [], []
                for _ in range(repeats):
                    took, expected = seconds(straightforward, *arguments)
                    slow.append(1000 * took)
                    took, picks = seconds(lambda *a: greedy_order(*a)[0], *arguments)
                    fast.append(1000 * took)
                a, b = statistics.median(slow), statistics.median(fast)
                same = np.mean(picks == expected)
                times = f"{a:19.1f} {b:16.1f} {a / b:6.1f}"
                print(f"{kernel:8} {documents:9} {size:5} {times} {same:11.1%}", flush=True)


if __name__ == "__main__":
    main()
