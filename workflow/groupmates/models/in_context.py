"""What a causal language model says of in-context questions; see `maths/in_context.py`.

What the options of a question share is read once. Logits are made where they are looked at alone.
Legend: R rows, M tokens whose loss is looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, PreTrainedModel

from groupmates.maths.in_context import Question, alike, batches
from groupmates.maths.packing import pad_right
from groupmates.models.language_model import comparable, device, in_float32
from groupmates.models.reference import label_logits

Read = tuple[int, list[np.ndarray], np.ndarray]


def read(
    model: PreTrainedModel, questions: list[Question], batch_tokens: int, done: int = 0
) -> Iterator[list[Read]]:
    """One batch after the other: each question's number, and what `verdict` takes of it.

    The order is another one, and always the same. Batches of its first `done` questions are passed
    over. Losses are float32, in nats. About `batch_tokens` tokens are read together. Besides, the keys
    and values of what is shared are held up to twice, and once for each option.
    """
    sharing = rows_can_share(model)
    shared_N = np.array([question.shared() if sharing else 0 for question in questions])
    rows_N = np.array([len(question.rows) for question in questions])
    tails_N = np.array([sum(map(len, question.rows)) for question in questions]) - rows_N * shared_N
    passed = 0
    for batch in batches(shared_N, rows_N, tails_N, batch_tokens):
        passed += len(batch)
        if passed <= done:
            continue
        here = [questions[i] for i in batch]
        found = _read_together(model, here, int(shared_N[batch].min()))
        yield [(int(i), *of_question) for i, of_question in zip(batch, found, strict=True)]


@torch.no_grad()
def _read_together(
    model: PreTrainedModel, questions: list[Question], shared: int
) -> Iterator[tuple[list[np.ndarray], np.ndarray]]:
    """Losses of questions whose rows share their first `shared` tokens, each within itself."""
    counts = [len(question.rows) for question in questions]
    owner_R = np.repeat(np.arange(len(questions)), counts)
    rows = [row[shared:] for question in questions for row in question.rows]
    first = [f - shared for question in questions for f in question.first_read()]
    with comparable():
        cache = _heads(model, questions, shared) if shared else None
        found: list[Any] = [None] * len(rows)
        for here in alike(np.array([len(row) for row in rows])):
            kept = _of_rows(cache, owner_R[here]) if cache is not None else None
            losses = _row_losses(model, [rows[i] for i in here], [first[i] for i in here], kept)
            for i, of_row in zip(here, losses, strict=True):
                found[i] = of_row
    for question, end in zip(questions, np.cumsum(counts), strict=True):
        ours = found[end - len(question.rows) : end]
        yield [losses for losses, _ in ours], ours[question.gold][1]


def _row_losses(
    model: PreTrainedModel, rows: list[np.ndarray], first: list[int], cache: Any
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Losses of each row's tokens from its `first` on, and whether they are the likeliest.

    Rows are padded on the right, where no real token looks: padding needs no mask.
    """
    padded = pad_right(rows, 0)
    read_R = np.array([len(row) - f for row, f in zip(rows, first, strict=True)])
    row_M = np.repeat(np.arange(len(rows)), read_R)
    token_M = np.concatenate([np.arange(len(row))[f:] for row, f in zip(rows, first, strict=True)])
    ids, row, before, labels = (
        torch.from_numpy(a).to(device())
        for a in (padded, row_M, token_M - 1, padded[row_M, token_M])
    )
    logits = label_logits(model, ids, row, before, cache=cache).float()
    losses_M = cross_entropy(logits, labels, reduction="none").cpu().numpy()
    likeliest_M = (logits.argmax(-1) == labels).cpu().numpy()
    ends = np.cumsum(read_R)[:-1]
    return zip(np.split(losses_M, ends), np.split(likeliest_M, ends), strict=True)


def _heads(model: PreTrainedModel, questions: list[Question], shared: int) -> Any:
    """Keys and values of the first `shared` tokens of each question."""
    heads = np.stack([question.rows[0][:shared] for question in questions]).astype(np.int64)
    return _with_cache(model, torch.from_numpy(heads).to(device()))


def _of_rows(cache: Any, owner_R: np.ndarray) -> Any:
    """Keys and values for rows: those of the questions that own them."""
    kept = copy.deepcopy(cache)
    kept.batch_select_indices(torch.from_numpy(owner_R).to(device()))
    return kept


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
