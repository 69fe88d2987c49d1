"""What a causal language model says of in-context questions; see `maths/in_context.py`.

What the options of a question share is read once. Logits are made where they are looked at alone.
Legend: R rows, M tokens whose loss is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

from groupmates.maths.in_context import Question, batches
from groupmates.maths.packing import pad_right
from groupmates.models.language_model import comparable, device, in_float32
from groupmates.models.reference import label_logits


def read(
    model: PreTrainedModel, questions: list[Question], batch_tokens: int
) -> Iterator[tuple[int, list[np.ndarray], np.ndarray]]:
    """Each question's number, and what `verdict` takes of it; in another order.

    Losses are float32, in nats. About `batch_tokens` tokens make a forward pass. Besides, the keys and
    values of what is shared are held once for each option.
    """
    sharing = rows_can_share(model)
    shared_N = np.array([question.shared() if sharing else 0 for question in questions])
    rows_N = np.array([len(question.rows) for question in questions])
    longest_N = np.array([max(map(len, question.rows)) for question in questions])
    for batch in batches(shared_N, rows_N, longest_N - shared_N, batch_tokens):
        here = [questions[i] for i in batch]
        found = _read_together(model, here, int(shared_N[batch].min()))
        for number, (losses, likeliest) in zip(batch, found, strict=True):
            yield int(number), losses, likeliest


@torch.no_grad()
def _read_together(
    model: PreTrainedModel, questions: list[Question], shared: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """The rows of questions that share their first `shared` tokens among themselves.

    Rows are padded on the right, where no real token looks: padding needs no mask.
    """
    rows = [row[shared:] for question in questions for row in question.rows]
    first = [f - shared for question in questions for f in question.first_read()]
    read_R = np.array([len(row) - f for row, f in zip(rows, first, strict=True)])
    row_M = np.repeat(np.arange(len(rows)), read_R)
    token_M = np.concatenate([np.arange(len(row))[f:] for row, f in zip(rows, first, strict=True)])
    padded = pad_right(rows, 0)
    ids, row, before, labels = (
        torch.from_numpy(a).to(device())
        for a in (padded, row_M, token_M - 1, padded[row_M, token_M])
    )
    with comparable():
        cache = _cache(model, questions, shared) if shared else None
        logits = label_logits(model, ids, row, before, cache).float()
    losses_M = cross_entropy(logits, labels, reduction="none").cpu().numpy()
    likeliest_M = (logits.argmax(-1) == labels).cpu().numpy()
    ends = np.cumsum(read_R)[:-1]
    losses, likeliest = np.split(losses_M, ends), np.split(likeliest_M, ends)
    start = 0
    for question in questions:
        end = start + len(question.rows)
        yield losses[start:end], likeliest[start + question.gold]
        start = end


def _cache(model: PreTrainedModel, questions: list[Question], shared: int) -> DynamicCache:
    """Keys and values of the first `shared` tokens of each question, once for each of its rows."""
    heads = np.stack([question.rows[0][:shared] for question in questions]).astype(np.int64)
    cache: Any = _with_cache(model, torch.from_numpy(heads).to(device()))
    counts = torch.tensor([len(question.rows) for question in questions])
    cache.batch_select_indices(torch.arange(len(questions)).repeat_interleave(counts).to(device()))
    return cache


def _with_cache(model: PreTrainedModel, ids: torch.Tensor) -> Any:
    return getattr(model.base_model(input_ids=ids, use_cache=True), "past_key_values", None)


@torch.no_grad()
def rows_can_share(model: PreTrainedModel) -> bool:
    """Whether keys and values can be kept and multiplied, and rows then read as they are at once.

    Some models keep a state of another kind. Found out by comparing on a few tokens, in float32.
    """
    ids = torch.arange(8, device=device())[None, :]
    with in_float32("highest"):
        cache = _with_cache(model, ids[:, :5])
        if not isinstance(cache, DynamicCache):
            return False
        cache.batch_select_indices(torch.zeros(2, dtype=torch.int64, device=device()))
        zero, last = torch.tensor([1], device=device()), torch.tensor([2], device=device())
        parted = label_logits(model, ids[:, 5:].expand(2, -1), zero, last, cache=cache)
        whole = label_logits(model, ids, zero - 1, last + 5)
    return bool(torch.allclose(parted, whole, atol=1e-4, rtol=1e-4))
