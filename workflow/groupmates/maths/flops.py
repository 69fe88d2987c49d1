"""What work costs, by arithmetic: floating-point operations, bytes, and jobs on a number of machines.

Legend: d hidden size, V vocabulary, P parameters. A multiply-add counts as two operations. Embeddings
are looked up, not multiplied. Estimates for a plan: norms, activations and biases are left out.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Shape:
    """A transformer. Its blocks have 12 d^2 weights a layer: 4 of attention, 8 of the MLP, as in
    GPT-NeoX, BERT and the Llama made here; grouped heads or wider MLPs differ by some percent."""

    hidden: int
    layers: int
    vocabulary: int

    @property
    def blocks(self) -> int:
        return 12 * self.layers * self.hidden**2

    def parameters(self, tables: int) -> int:
        """P, with `tables` of vocabulary x hidden: 2 of a language model, 1 of an encoder."""
        return self.blocks + tables * self.vocabulary * self.hidden


def forward_flops(shape: Shape, tokens: float, context: float, logits: float = 0.0) -> float:
    """Operations of a forward pass over `tokens`, each looking at `context` others on average.

    2 per weight and token, 4 d per layer and pair of tokens (scores and values), 2 d V per logit row.
    Causal attention over L tokens has a context of L / 2.
    """
    pairs = tokens * context
    return (
        2.0 * shape.blocks * tokens
        + 4.0 * shape.layers * shape.hidden * pairs
        + 2.0 * shape.hidden * shape.vocabulary * logits
    )


def first_token_flops(shape: Shape, tokens: float, context: float) -> float:
    """Operations of a forward pass that only vectors of first tokens are read of.

    Of the last layer only keys and values are of every token, 2 d^2 weights.
    """
    before = replace(shape, layers=shape.layers - 1)
    return forward_flops(before, tokens, context) + 4.0 * shape.hidden**2 * tokens


def training_flops(shape: Shape, tokens: float, length: float) -> float:
    """Operations of a training step on sequences of `length` tokens: the backward pass is twice
    the forward pass, every token has logits."""
    return 3.0 * forward_flops(shape, tokens, length / 2, tokens)


def clipped_mean(mean: float, limit: float) -> float:
    """Mean of min(x, limit) where only the mean of x is known: exponential lengths are assumed."""
    return mean * (1 - math.exp(-limit / mean)) if mean > 0 else 0.0


def makespan(jobs: list[tuple[int, float]], slots: int) -> float:
    """Seconds until `jobs` (how many, seconds each) are done in `slots` at once, longest first."""
    free = [0.0] * max(1, min(slots, sum(count for count, _ in jobs)))
    for count, seconds in sorted(jobs, key=lambda job: -job[1]):
        for _ in range(count):
            heapq.heapreplace(free, free[0] + seconds)
    return max(free)
