"""Vectors of first tokens, all that [CLS] pooling reads: the last layer is run at these alone.

Its other positions are most of a layer's work, one sixth of a forward pass of six layers, and nobody
reads them. Keys and values are still made of every token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from groupmates.models.language_model import device, in_float32

# Modules of a layer of BERT and its kin (RoBERTa, XLM-R, ELECTRA).
KNOWN = (
    *(f"attention.self.{name}" for name in ("query", "key", "value", "dropout")),
    *("attention.output", "intermediate", "output"),
)


def first_states(
    encoder: PreTrainedModel, ids_BL: torch.Tensor, real_BL: torch.Tensor | None
) -> torch.Tensor:
    """Last hidden states [B, D] of the first tokens. `real_BL` bool: no padding; None where none is.

    Equal to the whole layer's to rounding. An encoder that is not built as BERT runs it whole.
    """
    if not built_as_bert(encoder):
        return whole_states(encoder, ids_BL, real_BL)[:, 0]
    return _first_of_last_layer(encoder, ids_BL, real_BL)


def whole_states(
    encoder: PreTrainedModel, ids_BL: torch.Tensor, real_BL: torch.Tensor | None
) -> torch.Tensor:
    """Last hidden states [B, L, D]. Without a mask, a GPU has the faster kernels of attention."""
    mask = None if real_BL is None else real_BL.long()
    hidden: torch.Tensor = encoder(input_ids=ids_BL, attention_mask=mask).last_hidden_state
    return hidden


def _first_of_last_layer(
    encoder: Any, ids_BL: torch.Tensor, real_BL: torch.Tensor | None
) -> torch.Tensor:
    layers = encoder.encoder.layer
    encoder.encoder.layer = layers[:-1]
    try:
        hidden = whole_states(encoder, ids_BL, real_BL)
    finally:
        encoder.encoder.layer = layers
    layer, first = layers[-1], hidden[:, :1]
    own = layer.attention.self

    def by_head(states: torch.Tensor) -> torch.Tensor:
        return states.unflatten(-1, (encoder.config.num_attention_heads, -1)).transpose(1, 2)

    context = scaled_dot_product_attention(
        by_head(own.query(first)),
        by_head(own.key(hidden)),
        by_head(own.value(hidden)),
        attn_mask=None if real_BL is None else real_BL[:, None, None, :],
        dropout_p=own.dropout.p if own.training else 0.0,
    )
    attended = layer.attention.output(context.transpose(1, 2).flatten(2), first)
    found: torch.Tensor = layer.output(layer.intermediate(attended), attended)[:, 0]
    return found


@torch.no_grad()
def built_as_bert(encoder: PreTrainedModel) -> bool:
    """Whether the last layer is made of the known modules, and of nothing that they do not tell.

    Found out once per model, by comparing on a few tokens in float32.
    """
    known = getattr(encoder, "_groupmates_built_as_bert", None)
    if known is None:
        known = _has_known_modules(encoder)
        if known:
            ids = torch.arange(16, device=device()).view(2, 8) % encoder.config.vocab_size
            real = torch.arange(8, device=device()) < torch.tensor([[8], [5]], device=device())
            was_training = encoder.training
            encoder.eval()
            with in_float32("highest"):
                first = _first_of_last_layer(encoder, ids, real)
                whole = whole_states(encoder, ids, real)[:, 0]
            encoder.train(was_training)
            known = torch.allclose(first, whole, atol=1e-4, rtol=1e-4)
        encoder._groupmates_built_as_bert = known  # type: ignore[assignment]
    return bool(known)


def _has_known_modules(encoder: nn.Module) -> bool:
    modules = dict(encoder.named_modules())
    layers = modules.get("encoder.layer")
    if not isinstance(layers, nn.ModuleList) or not len(layers):
        return False
    return all(f"encoder.layer.{len(layers) - 1}.{name}" in modules for name in KNOWN)
