"""First-order influence: what a probing step on a document would do, without the step.

A step of AdamW changes the weights by D, which depends on the document's gradient: clipped, joined with
the momentum, divided by the root of the second moment. To first order the reference loss then changes
by <g, D>, where g is its own gradient. One forward and one backward pass of the document give D.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from groupmates.errors import UserError
from groupmates.maths.packing import GRADIENT_VALUES, length_batches, pad_right
from groupmates.models import language_model as lm
from groupmates.models.checkpoint import broken_base, open_base
from groupmates.models.reference import Reference, check_reference
from groupmates.progress import note
from groupmates.settings.sections import StepRate

# A pool has at least so many batches, which jobs share.
BATCHES = 64


@dataclass(frozen=True)
class Part:
    """One tensor of weights W: what a step needs but for the document's gradient, float32 [*W].

    The step is -rate * (momentum + of_gradient * x) / (sqrt(second + of_square * x^2) + epsilon), of
    a clipped gradient x.
    """

    reference: torch.Tensor
    momentum: torch.Tensor
    second: torch.Tensor
    of_gradient: float
    of_square: float


class FirstOrder:
    """A base model, its AdamW state and the gradient of the reference loss, at one place.

    `group`: documents of a batch at the most, on any device: jobs may go on elsewhere, and be shared
    by several kinds. `together`: of one forward and backward pass. Raises `UserError` where the
    reference loss has no finite gradient.
    """

    def __init__(self, base: Path, reference: Reference, learning_rate: StepRate) -> None:
        model, optimizer, hyper = open_base(base)
        model.eval()  # dropout would be another model for each document
        check_reference(model, reference, base, "selection")
        loss = reference.loss(model)
        reference.pull_back(model)
        self._model, self._base, self._hyper = model, base, hyper
        self._rate, self._decay = learning_rate.of(hyper.learning_rate), 0.0
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._parts: dict[str, Part] = {}
        norm = float(nn.utils.get_total_norm([p.grad for p in self._names if p.grad is not None]))
        if not (math.isfinite(loss) and math.isfinite(norm) and norm > 0):
            found = f"loss {loss}, norm of the gradient {norm}"
            raise broken_base("a finite gradient of the reference loss", found, base)
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._add(parameter, optimizer.state[parameter], group["weight_decay"])
        model.zero_grad(set_to_none=True)
        self.group = max(1, int(GRADIENT_VALUES // sum(p.numel() for p in self._names)))
        self.together = self.group if lm.device().type == "cuda" else 1
        note("first order", f"reference loss {loss:.4f} nats, norm of its gradient {norm:.4g}")

    def _add(self, parameter: nn.Parameter, state: dict[str, Any], weight_decay: float) -> None:
        """The constants of a tensor's step, in the place of AdamW's state."""
        hyper, step = self._hyper, float(state["step"]) + 1
        first, second = 1 - hyper.beta1**step, 1 - hyper.beta2**step
        assert parameter.grad is not None
        reference = parameter.grad
        self._parts[self._names[parameter]] = Part(
            reference=reference,
            momentum=state["exp_avg"].mul_(hyper.beta1 / first),
            second=state["exp_avg_sq"].mul_(hyper.beta2 / second),
            of_gradient=(1 - hyper.beta1) / first,
            of_square=(1 - hyper.beta2) / second,
        )
        shrunk = (reference.double() * parameter.detach().double()).sum()
        self._decay += weight_decay * float(shrunk)

    def batches(self, sequences: list[np.ndarray]) -> list[np.ndarray]:
        """Numbers of the documents that are read together: the same in any job on any device."""
        lengths_N = np.array([len(s) for s in sequences])
        most = min(self.group, -(-len(sequences) // BATCHES))
        found = length_batches(lengths_N, lm.pass_tokens(self._model))
        return [rows for batch in found for rows in np.array_split(batch, -(-len(batch) // most))]

    def influences(self, sequences: list[np.ndarray], doc_ids: list[str]) -> np.ndarray:
        """Of each document, float64 [N, 3]: mean loss, norm of its gradient, first-order influence.

        The documents are read together. The loss is in nats per predicted token, the influence in
        nats: negative where a step helps.
        """
        lm.check_ids(self._model, sequences, lambda i: f"document {doc_ids[i]!r}", self._base)
        found_N3 = self._looked(sequences).cpu().numpy()
        wrong = np.flatnonzero(~np.isfinite(found_N3).all(1))
        if len(wrong):
            raise UserError(
                expected="a finite loss of every document, and a finite gradient",
                found=f"{found_N3[wrong[0]]} for document {doc_ids[wrong[0]]!r}",
                where=str(self._base),
                todo="look at the document's tokens, and at the checkpoint's weights",
            )
        return found_N3

    def _looked(self, sequences: list[np.ndarray]) -> torch.Tensor:
        """`influences` on the device; one by one where the model or the memory wants it so."""
        if len(sequences) == 1:
            return self._steps(*self._own_gradient(sequences[0]))
        if len(sequences) <= self.together:
            try:
                return self._steps(*self._gradients(sequences))
            except torch.OutOfMemoryError:
                why, self.together = "memory is short", len(sequences) // 2
            except torch.AcceleratorError:
                raise
            except RuntimeError as error:
                why, self.together = f"{type(self._model).__name__}: {error}"[:200], 1
            note("first order", f"documents are read {self.together} at a time from here on: {why}")
        half = len(sequences) // 2
        return torch.cat([self._looked(sequences[:half]), self._looked(sequences[half:])])

    def _own_gradient(self, sequence: np.ndarray) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Loss [1] and gradients [1, *W] of one document."""
        ids = torch.from_numpy(sequence.astype(np.int64))[None].to(lm.device())
        loss, square = lm.token_losses(self._model, ids)
        total = loss + self._hyper.z_loss * square
        found = torch.autograd.grad(total, list(self._names), allow_unused=True)
        named = zip(self._names.values(), found, strict=True)
        return loss.detach()[None], {name: g[None] for name, g in named if g is not None}

    def _gradients(
        self, sequences: list[np.ndarray]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Losses [B] and gradients [B, *W] of documents that are read together."""
        ids = torch.from_numpy(pad_right(sequences, 0).astype(np.int64)).to(lm.device())
        counts_B = torch.tensor([len(s) - 1 for s in sequences], device=lm.device())
        weights = {name: parameter.detach() for parameter, name in self._names.items()}

        def total(
            weights: dict[str, torch.Tensor], row: torch.Tensor, count: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor]:
            with lm.autocast():
                called = functional_call(
                    self._model, weights, (row[None, :-1],), {"use_cache": False}
                )
            logits = called.logits[0].float()
            log_partition = logits.logsumexp(-1)
            losses = log_partition - logits.gather(-1, row[1:, None]).squeeze(-1)
            real = torch.arange(len(losses), device=row.device) < count
            loss, square = (
                torch.where(real, values, 0.0).sum() / count
                for values in (losses, log_partition.square())
            )
            return loss + self._hyper.z_loss * square, loss

        gradients, losses_B = vmap(grad(total, has_aux=True), (None, 0, 0))(weights, ids, counts_B)
        return losses_B, gradients

    @torch.no_grad()
    def _steps(self, losses_B: torch.Tensor, gradients: dict[str, torch.Tensor]) -> torch.Tensor:
        """What a step on each document does, from its gradients [B, *W]; see `Part`."""
        norm_B = torch.stack([g.flatten(1).norm(dim=1) for g in gradients.values()]).norm(dim=0)
        clipped_B = (self._hyper.clip_norm / (norm_B + 1e-6)).clamp(max=1.0)  # as torch clips
        along_B = torch.full_like(norm_B, self._decay, dtype=torch.float64)
        for name, part in self._parts.items():
            if name not in gradients:  # AdamW leaves such weights
                continue
            own = gradients[name]
            own = own * clipped_B.view(-1, *[1] * (own.ndim - 1))
            root = torch.addcmul(part.second, own, own, value=part.of_square).sqrt_()
            step = torch.add(part.momentum, own, alpha=part.of_gradient)
            along = step.mul_(part.reference).div_(root.add_(self._hyper.epsilon))
            along_B += along.flatten(1).sum(1, dtype=torch.float64)
        influence_B = -self._rate * along_B
        return torch.stack([losses_B.double(), norm_B.double(), influence_B], 1)
