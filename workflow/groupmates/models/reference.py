"""The reference loss: what every probe, evaluation and brute-force search measures.

Losses are in nats per label token, lower is better, summed in float32 or better.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch.nn.functional import cross_entropy
from transformers import Cache, PreTrainedModel

from groupmates.artefacts.store import read_table
from groupmates.maths.packing import pad_right
from groupmates.models.language_model import (
    autocast,
    batches,
    check_fits,
    check_ids,
    comparable,
    device,
    in_float32,
)
from groupmates.models.tokenizer import load_tokenizer, token_lists

BATCH_TOKENS = 8192


def reference_part(path: Path, split: str, examples: int) -> tuple[Reference, list[str]]:
    """At most `examples` of the `selection` or the `evaluation` part, and their ids."""
    table = read_table(path, "reference")
    table = table.filter(pc.equal(table["split"], split)).slice(0, examples)
    table = table.take(pc.sort_indices(table["example_id"]))
    starts, ids = table["label_start"].to_numpy(), table["example_id"].to_pylist()
    names = [f"example {i} of {path}" for i in ids]
    return Reference(token_lists(table), starts, BATCH_TOKENS, names), ids


def check_reference(model: PreTrainedModel, reference: Reference, base: Path, part: str) -> None:
    """The examples of the `part` must lie within the model's positions and embedding.

    `base`: the model's folder, whose tokenizer names a token.
    """
    name = f"the {part} part of the reference set"
    check_fits(model, reference.longest, name)

    def where(number: int) -> str:
        text = load_tokenizer(base, needs_end=False).decode(reference.sequences[number])
        return f"{name}, {reference.names[number]}: {text!r:.80}"

    check_ids(model, reference.sequences, where, base)


class Reference:
    """A reference set on the device, and the loss of a model on it: L(D_r, M).

    Examples of nearly equal length share a batch, padded on the right: no token can look at what
    comes after it, so padding needs no mask and changes no loss. Logits are made at label positions
    only. `batches`: ids [B, L], row and position that predict each label, the labels, their
    examples. `names`: of the examples, for errors.
    """

    def __init__(
        self,
        sequences: list[np.ndarray],
        label_starts: np.ndarray,
        batch_tokens: int,
        names: list[str] | None = None,
    ) -> None:
        lengths = np.array([len(s) for s in sequences])
        self.names = names or [f"example {i}" for i in range(len(sequences))]
        self.sequences, self.longest = sequences, int(lengths.max())
        self.labels_N = lengths - label_starts
        self.batches: list[tuple[torch.Tensor, ...]] = []
        for rows in batches(lengths, batch_tokens):
            ids = pad_right([sequences[i] for i in rows], 0)
            position = np.arange(ids.shape[1])[None, :]
            label = (position >= label_starts[rows, None]) & (position < lengths[rows, None])
            # The hidden state at position t - 1 predicts the token at t.
            example, token = np.nonzero(label)
            self.batches.append(
                tuple(
                    torch.from_numpy(a).to(device())
                    for a in (ids, example, token - 1, ids[label], rows[example])
                )
            )

    @torch.no_grad()
    def example_losses(self, model: PreTrainedModel) -> np.ndarray:
        """Summed loss of the labels of each example, float64 [N], nats."""
        sums = torch.zeros(len(self.labels_N), dtype=torch.float64, device=device())
        was_training = model.training
        model.eval()
        try:
            for ids, example, before, labels, owner in self.batches:
                with comparable():
                    logits = label_logits(model, ids, example, before)
                losses = cross_entropy(logits.float(), labels, reduction="none")
                sums.index_add_(0, owner, losses.double())
        finally:
            model.train(was_training)
        return sums.cpu().numpy()

    def pull_back(self, model: PreTrainedModel) -> None:
        """Add the gradient of the loss to the gradients of the model's weights."""
        for ids, example, before, labels, _ in self.batches:
            with autocast():
                logits = label_logits(model, ids, example, before)
            summed = cross_entropy(logits.float(), labels, reduction="sum")
            (summed / int(self.labels_N.sum())).backward()

    def loss(self, model: PreTrainedModel) -> float:
        """Mean loss over all label tokens of the set (not over batch means), nats per token."""
        return self.mean(self.example_losses(model))

    def mean(self, losses_N: np.ndarray) -> float:
        """The same of the examples' losses, nats [N], that `example_losses` returned."""
        return float(losses_N.sum() / self.labels_N.sum())


def label_logits(
    model: PreTrainedModel,
    ids: torch.Tensor,
    row: torch.Tensor,
    position: torch.Tensor,
    *,
    cache: Cache | None = None,
) -> torch.Tensor:
    """Logits [labels, vocabulary] at (row, position) of ids [B, L].

    `cache`: keys and values of tokens before these; it grows by them.
    """
    kept: dict[str, Any] = {"past_key_values": cache} if cache is not None else {}
    inputs = {"input_ids": ids, "use_cache": cache is not None, **kept}
    if not head_is_linear(model):
        return model(**inputs).logits[row, position]
    hidden = model.base_model(**inputs).last_hidden_state
    return model.get_output_embeddings()(hidden[row, position])


@torch.no_grad()
def head_is_linear(model: PreTrainedModel) -> bool:
    """Whether the logits are the output embedding of the last hidden state and nothing more.

    Some architectures scale or cap their logits; found out once per model by comparing on a few
    tokens, in float32. Narrow: a cap far above the logits of a few tokens bends them little.
    """
    known = getattr(model, "_groupmates_head_is_linear", None)
    if known is None:
        ids = torch.arange(8, device=device())[None, :]
        # Rounding as of callers, in autocast or in TF32, would hide or feign a difference.
        with in_float32("highest"):
            full = model(input_ids=ids, use_cache=False).logits
            hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            head = model.get_output_embeddings()
            fits = head is not None and head.weight.shape[-1] == hidden.shape[-1]
            known = fits and torch.allclose(full, head(hidden), atol=1e-6, rtol=1e-5)
        model._groupmates_head_is_linear = known  # type: ignore[assignment]
    return bool(known)
