"""What a model says of a question does not depend on what is read together."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import MambaConfig, MambaForCausalLM

import small
from groupmates.maths.in_context import question_of
from groupmates.models import in_context
from groupmates.models import language_model as lm


def questions(number: int) -> list:
    """Of two to four options behind a common beginning, and some of a single one."""
    rng = np.random.default_rng(3)
    found = []
    for i in range(number):
        before = rng.integers(0, 50, rng.integers(2, 40)).astype(np.int32)
        options = [
            rng.integers(0, 50, rng.integers(1, 9)).astype(np.int32) for _ in range(i % 4 + 1)
        ]
        rows = [np.concatenate([before, option]) for option in options]
        kind = "multiple_choice" if len(rows) > 1 else "language_modeling"
        found.append(question_of(kind, rows, before, len(rows) - 1, 1))
    return found


def alone(model, question) -> list[np.ndarray]:
    """Losses of each row by itself, from the first token that is looked at."""
    found = []
    for row, first in zip(question.rows, question.first_read(), strict=True):
        ids = torch.from_numpy(row.astype(np.int64))
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, first - 1 : -1]
        found.append(cross_entropy(logits, ids[first:], reduction="none").numpy())
    return found


def mamba():
    """Keeps a state in the place of keys and values."""
    config = MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1, state_size=4)
    return MambaForCausalLM(config)


@pytest.mark.parametrize(
    ("model", "shares"), [(small.LLAMA, True), (small.NEOX, True), (mamba, False)]
)
@pytest.mark.parametrize("batch_tokens", [1, 300])
def test_losses_are_those_of_every_row_by_itself(model, shares, batch_tokens):
    model = model() if callable(model) else lm.make_lm(model, 50, 64, 0, seed=1)
    model.eval()
    asked = questions(12)
    assert in_context.rows_can_share(model) is shares
    seen = set()
    read = [found for batch in in_context.read(model, asked, batch_tokens) for found in batch]
    for number, losses, likeliest in read:
        expected = alone(model, asked[number])
        for found, own in zip(losses, expected, strict=True):
            np.testing.assert_allclose(found, own, atol=2e-5)
        assert len(likeliest) == len(expected[asked[number].gold])
        seen.add(number)
    assert seen == set(range(12))
