"""Counts of the pool and of what was selected, added up shard by shard.

Nothing here grows with the pool: a shard's arrays are dropped once they are counted.

G: groups, row 0 the whole pool, then one row per method    N: documents of a shard
S: sources    C: clusters    B: bins of length    M = G - 1: methods
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# quarter octaves from 1 to 2^30 tokens; what is longer counts into the last
LENGTH_EDGES = 2.0 ** np.arange(0, 30.25, 0.25)


@dataclass
class Tally:
    """Sums over all shards that were added.

    documents_GS, tokens_GS: by source; documents_GC: by cluster; documents_GB: by length, bins
    between `LENGTH_EDGES`; influence_C: sum of individual influences; shared_MM: documents that two
    methods both selected, on the diagonal those of one.
    """

    documents_GS: np.ndarray
    tokens_GS: np.ndarray
    documents_GC: np.ndarray
    documents_GB: np.ndarray
    influence_C: np.ndarray
    shared_MM: np.ndarray

    @classmethod
    def empty(cls, methods: int) -> Tally:
        groups = methods + 1
        return cls(
            documents_GS=np.zeros((groups, 0), np.int64),
            tokens_GS=np.zeros((groups, 0), np.int64),
            documents_GC=np.zeros((groups, 0), np.int64),
            documents_GB=np.zeros((groups, len(LENGTH_EDGES) - 1), np.int64),
            influence_C=np.zeros(0),
            shared_MM=np.zeros((methods, methods), np.int64),
        )

    def add(
        self,
        tokens_N: np.ndarray,
        influence_N: np.ndarray,
        source_N: np.ndarray,
        cluster_N: np.ndarray,
        kept_MN: np.ndarray,
    ) -> None:
        """Count one shard; sources and clusters are codes from 0, `kept_MN` is boolean."""
        groups_GN = np.vstack([np.ones((1, len(tokens_N)), bool), kept_MN])
        last_bin = len(LENGTH_EDGES) - 2
        bin_N = np.minimum(np.searchsorted(LENGTH_EDGES, tokens_N, side="right") - 1, last_bin)
        self.documents_GS = _plus(self.documents_GS, _counts(source_N, groups_GN))
        self.tokens_GS = _plus(self.tokens_GS, _counts(source_N, groups_GN, tokens_N))
        self.documents_GC = _plus(self.documents_GC, _counts(cluster_N, groups_GN))
        self.documents_GB = _plus(self.documents_GB, _counts(np.maximum(bin_N, 0), groups_GN))
        influence_1C = np.bincount(cluster_N, influence_N)[None]
        self.influence_C = _plus(self.influence_C[None], influence_1C)[0]
        kept = kept_MN.astype(np.float64)  # exact up to 2^53 documents
        self.shared_MM = self.shared_MM + np.rint(kept @ kept.T).astype(np.int64)


def _counts(
    code_N: np.ndarray, groups_GN: np.ndarray, weight_N: np.ndarray | None = None
) -> np.ndarray:
    """Documents, or sums of `weight_N`, per code and group: int64 [G, codes]."""
    size = int(code_N.max()) + 1 if len(code_N) else 0
    rows = [
        np.bincount(code_N[group], None if weight_N is None else weight_N[group], minlength=size)
        for group in groups_GN
    ]
    return np.rint(np.stack(rows)).astype(np.int64)


def _plus(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of two arrays whose second axes may differ in length; the shorter one counts as zero."""
    total = np.zeros((len(a), max(a.shape[1], b.shape[1])), np.result_type(a, b))
    total[:, : a.shape[1]] += a
    total[:, : b.shape[1]] += b
    return total
