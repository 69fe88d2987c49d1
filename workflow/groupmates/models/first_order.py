"""First-order influence: what a probing step on a document would do, without the step.

AdamW moves the weights along the document's gradient g, divided by P = sqrt(second moment) + epsilon.
To first order, that changes the reference loss by -rate * <g_reference / P, g>. The product is the
slope of the document's own loss along g_reference / P. Two forward passes measure it, at weights
moved a little either way.

The second moment is that after a step on the reference. Rows of tokens that training has not seen have
none before it: divided by epsilon alone, they would be all of the direction.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path

import numpy as np
import torch
from torch import nn

from groupmates.errors import UserError
from groupmates.maths.packing import length_batches
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import broken_base, open_base
from groupmates.models.reference import Reference, check_reference
from groupmates.progress import note
from groupmates.settings.sections import StepRate

# Change of the reference loss, nats, by which the weights move either way. From a sixth of it to
# fifteen times as much, labels rank documents alike (workflow/docs/experiments.md).
CHANGE = 0.02


class FirstOrder:
    """A base model at weights moved `towards` a lower reference loss, and `away` from it.

    `rate`: first-order influence, nats, per nat of a document's loss away minus towards; negative,
    as influence is where it helps. It has AdamW's bias correction, and not the clipping of the
    document's gradient or its part in the second moment. Raises `UserError` where the reference loss
    is not finite, or does not lie between those of the moved weights.
    """

    def __init__(self, base: Path, reference: Reference, learning_rate: StepRate) -> None:
        model, optimizer, hyper = open_base(base)
        model.eval()  # dropout would be another model at either side
        check_reference(model, reference, base, "selection")
        self._base = base
        loss = reference.loss(model)
        reference.pull_back(model)
        weights = {n: p for n, p in model.named_parameters() if p.grad is not None}
        gradients = {n: p.grad for n, p in weights.items() if p.grad is not None}
        clipped = min(1.0, hyper.clip_norm / float(nn.utils.get_total_norm(gradients.values())))
        step = 1 + max(float(optimizer.state[p]["step"]) for p in weights.values())
        along, slope = [], 0.0
        for name, gradient in gradients.items():
            before = optimizer.state[weights[name]]["exp_avg_sq"]
            second = (clipped * gradient).square().lerp(before, hyper.beta2)
            along.append(gradient / ((second / (1 - hyper.beta2**step)).sqrt() + hyper.epsilon))
            slope += float((gradient.double() * along[-1].double()).sum())
        if not (math.isfinite(slope) and slope > 0):
            raise broken_base("a finite gradient of the reference loss", f"slope {slope}", base)
        distance = CHANGE / slope
        model.zero_grad(set_to_none=True)
        self.towards, self.away = model, copy.deepcopy(model)
        for moved, way in ((self.towards, -distance), (self.away, distance)):
            torch._foreach_add_([moved.get_parameter(n).data for n in weights], along, alpha=way)
        low, high = reference.loss(self.towards), reference.loss(self.away)
        note("first order", f"reference loss {loss:.4f} nats; {low:.4f} towards, {high:.4f} away")
        if not low < loss < high:
            expected = "a reference loss that its own gradient lowers one way and raises the other"
            raise broken_base(expected, f"{low} < {loss} < {high} does not hold", base)
        correction = (1 - hyper.beta1) / (1 - hyper.beta1**step)
        self.rate = -learning_rate.of(hyper.learning_rate) * correction / (2 * distance)

    def batches(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        """Numbers of the documents that share a forward pass: the same, however jobs share them."""
        lengths_N = np.array([len(s) for s in sequences])
        return list(length_batches(lengths_N, lm.loss_tokens(self.away)))

    def losses(self, sequences: list[np.ndarray], doc_ids: list[str]) -> np.ndarray:
        """Mean loss per predicted token of each document, towards and away, float64 [N, 2], nats."""
        lm.check_ids(self.away, sequences, lambda i: f"document {doc_ids[i]!r}", self._base)
        found_N2 = np.stack([lm.mean_losses(m, sequences) for m in (self.towards, self.away)], 1)
        wrong = np.flatnonzero(~np.isfinite(found_N2).all(1))
        if len(wrong):
            raise UserError(
                expected="a finite loss of every document",
                found=f"{found_N2[wrong[0]]} for document {doc_ids[wrong[0]]!r}",
                where=str(self._base),
                todo="look at the document's tokens, and at the checkpoint's weights",
            )
        return found_N2
