"""CPU seconds that a batch of a pretraining takes to be read, beside those of a step.

    python tests/benchmarks/loader.py

A batch of DCLM's 400M-4x set-up, 512 windows of 2,048 tokens, from a file of 2^27 tokens. Orders are
of 16 million windows. The step is one of the demo's model on its own batch of 16 x 256, on one thread.
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

from groupmates.artefacts.store import Provenance, write_folder_provenance
from groupmates.maths.passes import Passes
from groupmates.models import language_model as lm
from groupmates.pool.token_windows import PART, TOKENS, TokenWindows, write_tokens
from groupmates.settings.config import Architecture, Optimizer

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


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        large = TokenWindows([part(Path(folder) / "large", 2**27, 50_000)], 2048)
        small = TokenWindows([part(Path(folder) / "small", 2**20, 2048)], 256)
        print(f"order of 16 M windows   {seconds(Passes(16_000_000, 0, '').order, 3):8.3f} s")
        print(f"batch of 512 x 2,048    {1e3 * seconds(batches(large, 512)):8.2f} ms")
        demo = seconds(batches(small, 16))
        print(f"batch of 16 x 256       {1e3 * demo:8.3f} ms")
        shape = Architecture(family="qwen3", hidden_size=96, layers=3, heads=4)
        model = lm.make_lm(shape, 2048, 257, 0, seed=0)
        hyper = Optimizer(
            learning_rate=1e-3,
            beta1=0.9,
            beta2=0.95,
            epsilon=1e-8,
            weight_decay=0.033,
            clip_norm=1.0,
            z_loss=1e-4,
        )
        optimizer, load = lm.make_optimizer(model, hyper), batches(small, 16)
        step = seconds(lambda n: lm.train_step(model, optimizer, load(n), 1.0, 1e-4))
        print(f"step of the demo        {1e3 * step:8.1f} ms, the batch {demo / step:.3%} of it")


if __name__ == "__main__":
    main()
