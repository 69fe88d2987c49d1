"""How many documents each cluster gives, and taking a budget (method section 6, quotas).

Every method gives a document a float `key`; documents are taken by (key, rank, place in the pool),
smallest first, until the budget is met. Legend: N documents in pool order, C documents of a
cluster in greedy order.
"""

from __future__ import annotations

import numpy as np

from groupmates.errors import UserError


def documents_of_ratio(ratio: float, documents: int) -> int:
    """Documents that a share of the pool stands for; at least one."""
    return max(1, round(ratio * documents))


def proportional_key(cluster: int) -> np.ndarray:
    """rank / |C| of a cluster's documents: every cluster gives the same share (the paper's rule).

    rank / |C| < n/N holds for exactly ceil(n |C| / N) ranks, so these keys take the paper's quotas,
    and trimming them to the budget drops the largest fractions first. Equal fractions of different
    clusters (1/3, 2/6) tie: float64 division rounds equal rationals equally.
    """
    return np.arange(cluster) / cluster


def marginal_key(theta_C: np.ndarray) -> np.ndarray:
    """Running maximum of theta along a greedy order: one threshold on theta over the whole pool.

    The maximum keeps a cluster's documents in greedy order: a document whose theta depends on those
    picked before it is never taken without them.
    """
    return np.maximum.accumulate(theta_C)


def take(
    key_N: np.ndarray,
    rank_N: np.ndarray,
    n_tokens_N: np.ndarray,
    *,
    documents: int | None = None,
    tokens: int | None = None,
) -> np.ndarray:
    """Indices of the documents that are taken, in the order in which they are taken.

    Exactly `documents` of them, or the longest run whose sum of tokens is at most `tokens`. The
    arrays stand in pool order: of equal key and rank the first is taken first.
    """
    assert (documents is None) != (tokens is None)
    order = np.lexsort((rank_N, key_N))  # stable
    if documents is not None:
        if documents > len(order):
            raise UserError(
                expected=f"at least {documents:,} documents in the method's order",
                found=f"{len(order):,}",
                where="select.budget.ratio",
                todo="lower the ratio, or let the method drop less (select.semdedup.threshold)",
            )
        return order[:documents]
    sum_N = np.cumsum(n_tokens_N[order])
    first, total = (int(sum_N[0]), int(sum_N[-1])) if len(order) else (0, 0)
    assert tokens is not None
    if not first <= tokens <= total:
        raise UserError(
            expected=f"between {first:,} tokens (the first document) and {total:,} (all documents)",
            found=f"a budget of {tokens:,} tokens",
            where="select.budget.tokens",
            todo="set a budget that the pool can meet, or a ratio instead",
        )
    return order[: np.searchsorted(sum_N, tokens, side="right")]
