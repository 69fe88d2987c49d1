"""Plain counterparts of the stages that run a model: every text padded to the full length.

Each is the straightforward algorithm, written from its description in the method. Padding is masked
and left out of averages, so that the results equal those of the stage.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy, normalize

from groupmates.settings.config import Optimizer


def embed(
    encoder: torch.nn.Module, documents: list[list[np.ndarray]], chunks: int, chunk_tokens: int
) -> torch.Tensor:
    """Embeddings [N, D] of documents of up to `chunks` pieces of ids, four documents at a time.

    Every document is `chunks` x `chunk_tokens` ids: empty chunks go through the encoder, too.
    """
    found = []
    for start in range(0, len(documents), 4):
        part = documents[start : start + 4]
        ids = torch.zeros(len(part), chunks, chunk_tokens, dtype=torch.int64)
        real = torch.zeros_like(ids)
        for n, pieces in enumerate(part):
            for c, piece in enumerate(pieces):
                ids[n, c, : len(piece)] = torch.from_numpy(piece)
                real[n, c, : len(piece)] = 1
        holds_text = real[:, :, 0].bool()
        real[:, :, 0] = 1  # a mask without any token has no softmax
        hidden = encoder(input_ids=ids.flatten(0, 1), attention_mask=real.flatten(0, 1))
        vectors = normalize(hidden.last_hidden_state[:, 0], dim=-1).unflatten(0, (len(part), -1))
        found.append((vectors * holds_text[..., None]).sum(1) / holds_text.sum(1, keepdim=True))
    return torch.cat(found)


def rollout_theta(
    individual_T: torch.Tensor, emb_TD: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor
) -> torch.Tensor:
    """theta [T] of one rollout with the mean kernel, step by step."""
    thetas = [individual_T[0]]
    for t in range(1, len(emb_TD)):
        related = torch.stack([emb_TD[i] @ emb_TD[t] for i in range(t)]).sum()
        thetas.append((alpha - alpha / (beta * t) * related) * individual_T[t])
    return torch.stack(thetas)


def probe_rollout(
    model: Any,
    optimizer: torch.optim.AdamW,
    start: tuple[dict[str, Any], dict[str, Any]],
    documents: list[torch.Tensor],
    batches: list[tuple[torch.Tensor, torch.Tensor]],
    hyper: Optimizer,
) -> list[float]:
    """Reference loss after each document of a rollout, nats per label token.

    `start`: state of model and optimizer, loaded anew. `batches`: padded ids [B, L], and the labels
    of each position or -100 [B, L]. Logits are made at every position.
    """
    model.load_state_dict(copy.deepcopy(start[0]))
    optimizer.load_state_dict(copy.deepcopy(start[1]))
    losses = []
    for ids in documents:
        optimizer.zero_grad(set_to_none=True)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.flatten(0, 1)
        loss = cross_entropy(logits, ids[:, 1:].flatten())
        (loss + hyper.z_loss * logits.logsumexp(-1).square().mean()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), hyper.clip_norm)
        optimizer.step()
        losses.append(_reference_loss(model, batches))
    return losses


@torch.no_grad()
def _reference_loss(model: Any, batches: list[tuple[torch.Tensor, torch.Tensor]]) -> float:
    total, tokens = 0.0, 0
    for ids, labels in batches:
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        wanted = labels[:, 1:].flatten()
        total += float(cross_entropy(logits, wanted, ignore_index=-100, reduction="sum"))
        tokens += int((wanted >= 0).sum())
    return total / tokens
