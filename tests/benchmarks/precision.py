"""How much of an influence is rounding: reference losses in bfloat16 against float32.

    python tests/benchmarks/precision.py results/RUN [--rollouts 20]

Runs rollouts of the run's probe pool from its base model. The reference loss after every step is
computed in float32, as probing does on a CPU, and under bfloat16 autocast, as it does on a GPU. On a
GPU, products in TF32 are tried, too. Prints the spread of the influences in float32, the spread of the
differences from them, and the correlation.
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.artefacts.store import read_table
from groupmates.maths.labels import label_scale
from groupmates.maths.rollouts import random_rollouts
from groupmates.models import language_model as lm
from groupmates.models.probing import Probing
from groupmates.models.reference import Reference, reference_part
from groupmates.models.tokenizer import token_lists

STEPS = 10
OTHERS = ["bfloat16", "tf32"] if torch.cuda.is_available() else ["bfloat16"]
AS_IT_IS = lm.autocast


def losses(reference: Reference, model: torch.nn.Module, taken: dict[str, float]) -> list[float]:
    """In every precision of OTHERS, then in float32; `taken` adds up the seconds."""
    found = []
    for name in [*OTHERS, "float32"]:
        half = partial(torch.autocast, lm.device().type, torch.bfloat16)
        lm.autocast = half if name == "bfloat16" else nullcontext
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        began = time.perf_counter()
        found.append(reference.loss(model))
        taken[name] = taken.get(name, 0.0) + time.perf_counter() - began
    lm.autocast = AS_IT_IS
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--rollouts", type=int, default=20)
    parser.add_argument("--examples", type=int, default=128)
    arguments = parser.parse_args()
    run = arguments.run
    sequences = token_lists(
        read_table(run / "sample/probe_pool.parquet", "probe_pool", ["input_ids"])
    )
    reference = reference_part(run / "sample/reference.parquet", "selection", arguments.examples)[0]
    probing = Probing(run / "base", reference)
    start = probing.snapshot()
    taken: dict[str, float] = {}
    first = losses(reference, probing._model, taken)
    print(f"losses before any step: {first}")
    taken.clear()
    found = []
    for rollout in random_rollouts(len(sequences), arguments.rollouts, STEPS, 0):
        start.restore()
        rows = [first]
        for document in rollout:
            probing.train(sequences[document])
            rows.append(losses(reference, probing._model, taken))
        found.append(np.diff(rows, axis=0))
    influence = np.array(found)  # [R, T, precisions]
    truth = influence[..., -1]
    print(f"{truth.size} influences in float32: {truth.mean():+.2e}, within positions ", end="")
    print(f"± {(truth - truth.mean(0)).std():.2e} nats")
    within = label_scale(truth, per_position=True).standardise(truth)
    for i, name in enumerate(OTHERS):
        off = influence[..., i] - truth
        own = label_scale(influence[..., i], per_position=True).standardise(influence[..., i])
        print(
            f"{name:<9} differs by {off.mean():+.1e} ± {off.std():.1e}; Spearman within positions "
            f"{spearmanr(own.ravel(), within.ravel())[0]:.4f}"
        )
    print({name: round(seconds / truth.size, 4) for name, seconds in taken.items()}, "s a loss")


if __name__ == "__main__":
    main()
