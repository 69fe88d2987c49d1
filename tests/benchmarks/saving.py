"""What it costs to keep the progress of a training.

`PYTHONPATH=workflow python tests/benchmarks/saving.py [hidden_size layers]`, default 110M parameters.

A LLaMA of random weights with AdamW state: seconds per step of the training itself, and per save of
its progress (copied, written, synchronised and digested), and per start from it.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

from groupmates.artefacts import unfinished
from groupmates.artefacts.store import Provenance
from groupmates.models import language_model as lm
from groupmates.models.resumable import Training
from groupmates.settings.config import Architecture, Optimizer

SAVES = 3


def main(hidden_size: int, layers: int) -> None:
    architecture = Architecture(
        family="llama", hidden_size=hidden_size, layers=layers, heads=hidden_size // 64
    )
    hyper = Optimizer(
        learning_rate=1e-3,
        beta1=0.9,
        beta2=0.95,
        epsilon=1e-8,
        weight_decay=0.033,
        clip_norm=1.0,
        z_loss=1e-4,
    )
    model = lm.make_lm(architecture, 16_384, positions=257, end_of_text=0, seed=0)
    optimizer = lm.make_optimizer(model, hyper)
    ids = torch.randint(16_384, (4, 257), device=lm.device())
    provenance = Provenance("base", {})
    with tempfile.TemporaryDirectory(dir=".") as folder:
        output = Path(folder) / "base"
        unfinished.seconds_between_saves = 1e9
        with Training(output, "base", provenance, model, optimizer, 0) as training:
            assert training._kept is not None
            start = time.monotonic()
            for _ in training.steps(3, "steps"):
                lm.train_step(model, optimizer, ids, hyper.clip_norm, hyper.z_loss)
            step = (time.monotonic() - start) / 3
            saves = []
            for _ in range(SAVES):
                training.done += 1
                start = time.monotonic()
                training._save(training._kept)
                saves.append(time.monotonic() - start)
        size = sum(f.stat().st_size for f in training._kept.folder.iterdir())
        start = time.monotonic()
        Training(output, "base", provenance, model, optimizer, 0)
        restore = time.monotonic() - start
    parameters = sum(p.numel() for p in model.parameters())
    every = max(60.0, max(saves) / unfinished.SAVING_SHARE)
    print(
        f"{parameters / 1e6:.0f}M parameters on {lm.device()}, {size / 1e9:.2f} GB kept\n"
        f"a step of {ids.numel():,} tokens: {step:.2f} s\n"
        f"a save: {min(saves):.2f} to {max(saves):.2f} s; "
        f"of {every:.0f} s between two: {max(saves) / every:.1%}\n"
        f"a start from it: {restore:.2f} s"
    )


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:3] or (768, 12)))
