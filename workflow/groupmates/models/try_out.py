"""What later stages will ask of a model, asked on a few tokens before anything expensive.

Legend: B rows, L tokens, V vocabulary, F hidden size.
"""

from __future__ import annotations

import numpy as np
import torch
from transformers import PreTrainedModel

from groupmates.errors import UserError
from groupmates.models.encoders import mean_hidden_states, three_layers
from groupmates.models.language_model import device, next_token_loss
from groupmates.models.reference import label_logits

# Of a forward or backward pass that an architecture does not have, or has otherwise.
FAILURES = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    TypeError,
    ValueError,
)
TOLERANCE = 1e-3  # of logits that must be equal, relative to the largest: float32, two kernels


def try_out(model: PreTrainedModel, ids_BM: np.ndarray, z_loss: float, where: str) -> torch.Tensor:
    """Ask of the model what base, probe, fit, score and the selectors will; its logits [B, L, V].

    ids_BM: M = L + 1 tokens a row, of which the model sees L, as in training.

    A forward pass whose logits look at nothing to the right, hidden states, logits at single labels
    (the reference loss), mean hidden states (embeddings), and a training step's backward pass.
    Weights and AdamW's state stay as they are, gradients are None afterwards. Raises `UserError`
    for what fails; a GPU's own failure, or its memory that runs out, is told as it is. Costs six passes
    over the tokens.
    """
    was_training = model.training
    try:
        return _answers(model, ids_BM, z_loss, where)
    except (torch.OutOfMemoryError, torch.AcceleratorError):
        raise  # the model is not to blame
    except FAILURES as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        raise unusable("a model that can be trained and read", words[:400], where) from error
    finally:
        model.train(was_training)
        model.zero_grad(set_to_none=True)


def _answers(model: PreTrainedModel, ids_BM: np.ndarray, z_loss: float, where: str) -> torch.Tensor:
    ids = torch.from_numpy(ids_BM.astype(np.int64)).to(device())
    model.eval()
    seen = ids[:, :-1]
    logits = logits_of(model, seen)
    rows, length = seen.shape
    if logits.shape[:2] != seen.shape:
        expected = f"logits of every token, {rows} x {length} x vocabulary"
        raise unusable(expected, f"the shape {tuple(logits.shape)}", where)
    if not logits.isfinite().all():
        raise unusable("finite logits", "nan or inf", where)
    # Packed documents and padding on the right count on it.
    if not alike(logits_of(model, seen[:, :-1]), logits[:, :-1]):
        expected = "a causal model: logits that depend on the tokens before alone"
        raise unusable(expected, "others where one more token follows", where)
    row, position = (torch.arange(n, device=device()) for n in (rows, length))
    row, position = row.repeat_interleave(length), position.repeat(rows)
    with torch.no_grad():
        labels = label_logits(model, seen, row, position)
    if not alike(labels, logits.reshape(labels.shape)):
        expected = "logits of single labels equal to those of whole sequences"
        raise unusable(expected, "others", where)
    mean_BF = mean_hidden_states(model, list(ids_BM), ids_BM.size, states_of=three_layers)
    if not mean_BF.isfinite().all():
        raise unusable("finite hidden states", "nan or inf", where)
    model.train()
    next_token_loss(model, ids, z_loss).backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    if not gradients or not all(g.isfinite().all() for g in gradients):
        raise unusable("a finite gradient", "nan or inf" if gradients else "none", where)
    return logits


@torch.no_grad()
def logits_of(model: PreTrainedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits float32 [B, L, V], without autocast."""
    return model(input_ids=ids, use_cache=False).logits.float()


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether logits are equal but for rounding."""
    return bool((one - other).abs().max() <= TOLERANCE * (1e-3 + other.abs().max()))


def unusable(expected: str, found: str, where: str) -> UserError:
    """A checkpoint that later stages could not work with."""
    return UserError(
        expected=expected,
        found=found,
        where=where,
        todo="choose another base.checkpoint: one that AutoModelForCausalLM opens, of a decoder whose "
        "layers have no special needs (kernels, masks, caches), converted where necessary",
    )
