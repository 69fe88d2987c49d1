"""How well influence functions rank documents by what a training step truly does.

    python tests/benchmarks/influence.py results/RUN [--documents 300] [--damping 1e-1 1e-2 1e-3 1e-4]

The truth is the change of the reference loss in one training step from the run's base model. The
documents are drawn at random from the run's probe pool. Prints the Spearman correlation of quad's
influence with the truth: with `hessian: none`, and with the inverse Gauss-Newton matrix at each
damping. Intervals are 95 % of the bootstrap.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.artefacts.store import read_table
from groupmates.maths.conjugate_gradient import conjugate_gradient
from groupmates.models.checkpoint import open_model
from groupmates.models.gradients import AttentionGradients
from groupmates.models.probing import Probing
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import token_lists


def line(name: str, predicted_N: np.ndarray, true_N: np.ndarray, seconds: float) -> None:
    rng = np.random.default_rng(0)
    drawn = rng.integers(0, len(true_N), (1000, len(true_N)))
    low, high = np.quantile(
        [spearmanr(predicted_N[d], true_N[d])[0] for d in drawn], [0.025, 0.975]
    )
    found = spearmanr(predicted_N, true_N)[0]
    print(
        f"{name:<28}Spearman {found:.3f} [{low:.3f}, {high:.3f}]  influence {predicted_N.mean():+.2e} "
        f"± {predicted_N.std():.2e}  {seconds:.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--damping", type=float, nargs="*", default=[1e-1, 1e-2, 1e-3, 1e-4])
    parser.add_argument("--products", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = arguments.run
    pool = read_table(run / "sample/probe_pool.parquet", "probe_pool", ["doc_id", "input_ids"])
    chosen = np.random.default_rng(arguments.seed).permutation(len(pool))[: arguments.documents]
    every, ids = token_lists(pool), pool["doc_id"].to_pylist()
    sequences = [every[i] for i in chosen]
    reference = reference_part(run / "sample/reference.parquet", "selection", arguments.examples)[0]
    probing = Probing(run / "base", reference)
    start, true = probing.snapshot(), []
    began = time.perf_counter()
    for i in chosen:
        start.restore()
        probing.train(every[i])
        true.append(probing.loss(ids[i], "one step") - probing.start_loss)
    true_N = np.array(true)
    print(f"{len(true_N)} true steps: {true_N.mean():+.2e} ± {true_N.std():.2e} nats, ", end="")
    print(f"{time.perf_counter() - began:.1f} s", flush=True)

    model, hyper = open_model(run / "base")
    gradients = AttentionGradients(model, hyper.z_loss, str(run / "base"))
    gradient_P = gradients.of_reference(reference)

    def influences(direction_P: torch.Tensor) -> np.ndarray:
        parts = [sequences[i : i + 16] for i in range(0, len(sequences), 16)]
        return -np.concatenate([gradients.dots(part, direction_P) for part in parts])

    began = time.perf_counter()
    line("none", influences(gradient_P), true_N, time.perf_counter() - began)
    for damping in arguments.damping:
        began = time.perf_counter()

        def multiply(vector_P: torch.Tensor, damping: float = damping) -> torch.Tensor:
            return gradients.gauss_newton(reference, vector_P) + damping * vector_P

        direction_P, residual = conjugate_gradient(multiply, gradient_P, arguments.products, 1e-3)
        name = f"damping {damping:g} (residual {residual:.0e})"
        line(name, influences(direction_P), true_N, time.perf_counter() - began)


if __name__ == "__main__":
    main()
