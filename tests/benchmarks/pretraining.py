"""What a step of pretraining takes beside its bare forward and backward passes, and its batch.

    PYTHONPATH=workflow:tests .venv/bin/python tests/benchmarks/pretraining.py

CPU seconds of one thread, medians, by turns. The steps are those of `pretrain` with the demo's model on
its own batch of 16 x 256, and with a wider one. The bare passes are transformers' own loss and its
gradient: of the rows together, and of as many at a time as a step takes.

The other batch is one of DCLM's 400M-4x set-up: 512 windows of 2,048 tokens, from a file of 2^27
tokens, in orders of 16 million windows.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

import small
from groupmates.artefacts.store import Provenance, write_folder_provenance
from groupmates.maths.passes import Passes
from groupmates.models import language_model as lm
from groupmates.models.resumable import Training
from groupmates.pool.token_windows import PART, TOKENS, TokenWindows, write_tokens
from groupmates.settings.config import Architecture

REPEATS = 20


def part(folder: Path, tokens: int, vocabulary: int) -> Path:
    """A part of a pool of random tokens."""
    flat = np.random.default_rng(0).integers(0, vocabulary, tokens, np.uint16)
    folder.mkdir()
    write_tokens(folder / TOKENS, flat.dtype, tokens, [flat])
    (folder / PART).write_text(json.dumps({"documents": 1, "tokens": tokens, "largest_id": 1}))
    write_folder_provenance(folder, "pretrain_tokens", Provenance("bench", {}))
    return folder


def seconds(work: Callable[[int], object], repeats: int = REPEATS) -> float:
    taken = []
    for number in range(repeats):
        start = time.process_time()
        work(number)
        taken.append(time.process_time() - start)
    return statistics.median(taken)


def batches(text: TokenWindows, rows: int) -> Callable[[int], object]:
    order = Passes(len(text), 0, "bench")
    order.order(0)
    return lambda step: torch.from_numpy(text.rows(order.batch(step, rows)))


def bare(model: nn.Module, ids: torch.Tensor, rows: int) -> None:
    """Forward and backward passes over the ids [B, L + 1], so many rows at a time."""
    for part in ids[:, :-1].split(rows):
        model(input_ids=part, labels=part, use_cache=False).loss.backward()


def step(shape: Architecture, load: Callable[[int], torch.Tensor], folder: Path) -> list[float]:
    """Seconds of a step, of the bare passes of all rows, and of those of as many as a step takes."""
    hyper = small.ADAMW
    model, other = (lm.make_lm(shape, 2048, 257, 0, seed=0) for _ in range(2))
    optimizer, source = lm.make_optimizer(model, hyper), Provenance("bench", {})
    taken: list[list[float]] = []
    with Training(folder, "pretrained", source, model, optimizer, 0, hyper) as training:
        for number in training.steps(REPEATS, "step"):
            ids = load(number)
            few = lm.rows_of_pass(model, ids)
            works = [
                lambda: training.step(load(number), 1e-3),  # noqa: B023
                lambda: bare(other, ids, len(ids)),  # noqa: B023
                lambda: bare(other, ids, few),  # noqa: B023
            ]
            taken.append([seconds(lambda _, work=work: work(), 1) for work in works])
            other.zero_grad(set_to_none=True)
    return [statistics.median(of_one) for of_one in zip(*taken, strict=True)]


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        large = TokenWindows([part(Path(folder) / "large", 2**27, 50_000)], 2048)
        narrow = TokenWindows([part(Path(folder) / "small", 2**20, 2048)], 256)
        load = batches(narrow, 16)
        print(f"order of 16 M windows   {seconds(Passes(16_000_000, 0, '').order, 3):8.3f} s")
        print(f"batch of 512 x 2,048    {1e3 * seconds(batches(large, 512)):8.2f} ms")
        print(f"batch of 16 x 256       {1e3 * seconds(load):8.3f} ms")
        for width, layers in ((96, 3), (384, 6)):
            shape = Architecture(family="qwen3", hidden_size=width, layers=layers, heads=4)
            whole, together, few = step(shape, load, Path(folder) / f"{width}")
            print(
                f"step of {width} x {layers}  {1e3 * whole:8.1f} ms; bare {1e3 * together:.1f} ms, "
                f"{whole / together:.3f}; bare in parts {1e3 * few:.1f} ms, {whole / few:.3f}"
            )


if __name__ == "__main__":
    main()
