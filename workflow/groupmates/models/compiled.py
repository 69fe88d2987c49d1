"""Layers compiled by torch, for a GPU that would wait while the CPU starts their many small kernels."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from groupmates.progress import note

# Shapes and kinds of passes of one layer's code, beyond which torch would not compile any more.
VARIANTS = 64
# Relative: far above what bf16 rounds, far below what a wrong kernel does.
AGREEMENT = 0.02
# A pass is compiled by the first, captured as a graph by the second, replayed by the third.
REPEATS = 3


def layers_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of a transformers model, which are all of the same few classes."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    return [module for module in model.modules() if type(module).__name__ in names]


def compile_layers(
    model: nn.Module,
    label: str,
    trials: Mapping[str, Callable[[], Sequence[np.ndarray]]],
    **how: Any,
) -> bool:
    """Whether the layers of a model are compiled from here on, `how` as torch.compile takes it.

    Each trial runs with the layers as they are, then compiled. Each of its arrays must agree. Where the
    compiler fails, or they do not, all stays as it was, and a note says why. Trials should have the
    shapes that come later: others are compiled when they come, or run plain where that fails.
    """
    layers, begun, was_training = layers_of(model), time.perf_counter(), model.training
    if not layers:
        note(label, f"{type(model).__name__} names no layers (_no_split_modules): none is compiled")
        return False
    torch._dynamo.config.recompile_limit = VARIANTS
    torch._dynamo.config.suppress_errors = False
    torch._inductor.config.fallback_random = True  # dropout draws as it does without
    for layer in layers:
        layer.compile(**how)
    # Each layer is a graph of its own, and reads the output of the one before. Unless torch is told
    # where a step begins, it takes each layer for one, and frees that output. Some models call parts
    # of their base model and not itself.
    hooked = {model, getattr(model, "base_model", model)}
    told = [module.register_forward_pre_hook(_step_begins) for module in hooked]
    try:
        for name, trial in trials.items():
            with torch.compiler.set_stance("force_eager"):
                expected = trial()
            for _ in range(REPEATS):
                _check(name, trial(), expected)
    except Exception as error:  # of a compiler, or of the operating system that has none
        if isinstance(error, torch.AcceleratorError) and not _gpu_works():
            raise
        first_line = str(error).strip().partition("\n")[0][:200]
        said = f"{type(error).__name__}: {first_line}" if first_line else type(error).__name__
    else:
        torch._dynamo.config.suppress_errors = True
        taken = time.perf_counter() - begun
        note(label, f"{len(layers)} layers compiled and compared in {taken:.0f} s")
        return True
    for hook in told:
        hook.remove()
    for layer in layers:
        layer._compiled_call_impl = None
    torch._dynamo.reset()
    model.train(was_training)
    model.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    note(label, f"layers are not compiled: {said}")
    return False


def _step_begins(module: nn.Module, inputs: Any) -> None:
    """What graphs have put out before may be overwritten; gradients are used up by then."""
    torch.compiler.cudagraph_mark_step_begin()


def _gpu_works() -> bool:
    """Whether it was the capture of a graph that failed, and not the GPU."""
    try:
        torch.cuda.synchronize()
        torch.ones(1, device="cuda").item()
    except (RuntimeError, AssertionError):  # the latter where torch has no CUDA
        return False
    return True


def _check(name: str, found: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    """A `ValueError` where the compiled layers compute something else."""
    for one, other in zip(found, expected, strict=True):
        apart = float(np.linalg.norm(one - other) / np.linalg.norm(other))
        if not apart <= AGREEMENT:
            raise ValueError(f"{name}: results differ by {apart:.1%} once compiled")
