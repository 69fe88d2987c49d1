"""Influence functions on the attention layers of the probed model (Quad).

Legend: B documents of a batch, L tokens, T label tokens, V vocabulary, P parameters of the attention
layers' linear maps, flattened in the order of the model. Losses are in nats; no dropout.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import linear
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from groupmates.errors import UserError
from groupmates.maths.packing import pad_right
from groupmates.models.language_model import autocast, device
from groupmates.models.reference import Reference, label_logits

# self_attn.q_proj, attention.dense, attn.c_attn, self_attention.query_key_value
_ATTENTION = re.compile(r"(^|[._])(attn|attention)\.")


class AttentionGradients:
    """A model's gradients by weights and biases of its attention projections.

    `z_loss`: weight of the squared log-partition in the loss of a document, as in training. Raises
    `UserError` for a model that has none; `where` is for the error.
    """

    def __init__(self, model: PreTrainedModel, z_loss: float, where: str) -> None:
        self._model, self._z_loss = model.eval().requires_grad_(False), z_loss
        self._modules: dict[str, nn.Module] = {
            name: module
            for name, module in model.named_modules()
            if isinstance(module, (nn.Linear, Conv1D)) and _ATTENTION.search(name)
        }
        if not self._modules:
            raise UserError(
                expected="linear maps in modules called attn or attention: quad looks at those",
                found=f"none in {type(model).__name__}",
                where=where,
                todo="leave quad out of select.methods for this architecture",
            )
        self.parameters: dict[str, nn.Parameter] = {
            f"{name}.{key}": parameter
            for name, module in self._modules.items()
            for key, parameter in module.named_parameters()
        }

    def of_reference(self, reference: Reference) -> torch.Tensor:
        """Gradient of the reference loss L(D_r, M), float32 [P]."""

        def slope(logits_TV: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
            slope_TV, labels_T = logits_TV.softmax(-1), batch[3]
            slope_TV[torch.arange(len(labels_T), device=labels_T.device), labels_T] -= 1.0
            return slope_TV

        return self._pulled_back(reference, slope)

    def gauss_newton(self, reference: Reference, vector_P: torch.Tensor) -> torch.Tensor:
        """Product of the Gauss-Newton matrix of the reference loss and a vector, float32 [P].

        Mean over label tokens of J' (diag(p) - p p') J v; J: derivative of the token's logits, p: their
        softmax. J v by forward differentiation, J' by a backward pass.
        """
        tangents, head = self._named(vector_P), _LabelLogits(self._model)

        def curved(logits_TV: torch.Tensor, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
            # Only one of the attention kernels has a forward derivative.
            with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                moved = {
                    f"model.{name}": forward_ad.make_dual(parameter.detach(), tangents[name])
                    for name, parameter in self.parameters.items()
                }
                dual = functional_call(head, moved, batch[:3])
                along_TV = forward_ad.unpack_dual(dual).tangent
            p_TV = logits_TV.softmax(-1)
            return p_TV * (along_TV - (p_TV * along_TV).sum(-1, keepdim=True))

        return self._pulled_back(reference, curved)

    def dots(self, sequences: list[np.ndarray], vector_P: torch.Tensor) -> np.ndarray:
        """Gradient of each document's own loss times a vector, float64 [B].

        Every map W of the attention becomes W + e v, with an e of its own for each row of the batch.
        The product is the derivative of the row's loss by its e. It takes one forward and one backward
        pass, and no gradient of a weight.
        """
        lengths_B = torch.tensor([len(s) - 1 for s in sequences], device=device())
        ids = torch.from_numpy(pad_right(sequences, 0)).to(device())
        tangents = self._named(vector_P)
        along_B = torch.zeros(len(sequences), device=device(), requires_grad=True)
        with ExitStack() as stack:
            for name, module in self._modules.items():
                own = {key: tangents[f"{name}.{key}"] for key, _ in module.named_parameters()}
                hook = partial(_moved, along_B=along_B, tangents=own)
                stack.callback(module.register_forward_hook(hook).remove)
            with autocast():
                logits = self._model(input_ids=ids[:, :-1], use_cache=False).logits
        logits = logits.float()
        log_partition = logits.logsumexp(-1)
        target = logits.gather(-1, ids[:, 1:, None]).squeeze(-1)
        losses_BL = log_partition - target + self._z_loss * log_partition.square()
        real_BL = torch.arange(losses_BL.shape[1], device=device()) < lengths_B[:, None]
        losses_B = torch.where(real_BL, losses_BL, 0.0).sum(-1) / lengths_B
        (found_B,) = torch.autograd.grad(losses_B.sum(), along_B)
        return found_B.double().cpu().numpy()

    def _pulled_back(
        self,
        reference: Reference,
        slope: Callable[[torch.Tensor, tuple[torch.Tensor, ...]], torch.Tensor],
    ) -> torch.Tensor:
        """Mean over label tokens of J' slope(logits, batch), float32 [P]; in float32 on a GPU, too."""
        parameters = list(self.parameters.values())
        total = [torch.zeros_like(p) for p in parameters]
        for batch in reference.batches:
            for parameter in parameters:
                parameter.requires_grad_(True)
            logits_TV = label_logits(self._model, *batch[:3])
            pull = slope(logits_TV.detach(), batch)
            torch._foreach_add_(total, list(torch.autograd.grad(logits_TV, parameters, pull)))
            for parameter in parameters:
                parameter.requires_grad_(False)
        return torch.cat([t.flatten() for t in total]) / int(reference.labels_N.sum())

    def _named(self, vector_P: torch.Tensor) -> dict[str, torch.Tensor]:
        """A vector in the shapes of the parameters."""
        parts = vector_P.split([p.numel() for p in self.parameters.values()])
        return {n: v.view_as(p) for (n, p), v in zip(self.parameters.items(), parts, strict=True)}


def _moved(
    module: nn.Module,
    inputs: tuple[torch.Tensor, ...],
    output: torch.Tensor,
    along_B: torch.Tensor,
    tangents: dict[str, torch.Tensor],
) -> torch.Tensor:
    """A map's output for weights moved by along_B, which is 0: for its derivative alone."""
    weight = tangents["weight"].T if isinstance(module, Conv1D) else tangents["weight"]
    change = linear(inputs[0].detach(), weight, tangents.get("bias"))
    assert len(output) == len(along_B), "attention that does not keep the rows of a batch apart"
    return output + along_B.view(-1, *[1] * (output.ndim - 1)).to(output.dtype) * change


class _LabelLogits(nn.Module):
    """`label_logits` as a module, whose parameters can be replaced."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, *batch: Any) -> torch.Tensor:
        return label_logits(self.model, *batch)
