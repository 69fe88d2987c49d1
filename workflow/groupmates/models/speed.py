"""How near a training comes to what its GPU can do."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import nn

from groupmates.maths.flops import Shape, training_flops
from groupmates.models.language_model import has_bfloat16

SIZE, PRODUCTS = 8192, 10  # of square matrices


@cache
def matrix_rate() -> float | None:
    """Operations per second of large matrix products, as trainings make them; None without a GPU.

    Measured once, in less than a second.
    """
    if not torch.cuda.is_available():
        return None
    kind = torch.bfloat16 if has_bfloat16() else torch.float32
    matrix = torch.randn(SIZE, SIZE, device="cuda", dtype=kind)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    matrix @ matrix
    start.record()
    for _ in range(PRODUCTS):
        matrix @ matrix
    end.record()
    end.synchronize()
    return PRODUCTS * 2.0 * SIZE**3 / (start.elapsed_time(end) / 1000)


def step_flops(model: nn.Module, sequences: int, length: int) -> float:
    """Operations of a training step on so many sequences of `length` tokens, by arithmetic."""
    config: Any = model.config.get_text_config(decoder=True)  # type: ignore[union-attr,operator]
    shape = Shape(config.hidden_size, config.num_hidden_layers, config.vocab_size)
    return training_flops(shape, sequences * length, length)
