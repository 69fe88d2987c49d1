"""What a document's influence loses where a rollout has visited its like before.

    python tests/benchmarks/redundancy.py results/RUN [--pairs 120] [--rollouts 48] [--seed 0]

Two experiments with the run's base model, probe pool and selection half of the reference. Pairs: the
marginal of x after one step on x itself, on a near neighbour, or on another document, minus that after
a random one. Tens: rollouts of ten steps whose second half revisits the first half, or its neighbours,
minus rollouts with the same second half after five random documents. Neighbours: by cosine of the
probed model's standardised mean hidden states. Nats; positive: the document before made x help less.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.artefacts.store import read_table
from groupmates.maths.statistics import paired_interval
from groupmates.models.encoders import BATCH_TOKENS, LmEncoder
from groupmates.models.probing import Probing
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import token_lists


class Rollouts:
    """The marginals of a sequence of documents trained on from the checkpoint."""

    def __init__(self, run: Path, examples: int) -> None:
        pool = read_table(run / "sample/probe_pool.parquet", "probe_pool", ["doc_id", "input_ids"])
        self.doc_ids, self.sequences = pool["doc_id"].to_pylist(), token_lists(pool)
        reference = reference_part(run / "sample/reference.parquet", "selection", examples)[0]
        self.probing = Probing(run / "base", reference)
        self.start = self.probing.snapshot()

    def marginals(self, documents: np.ndarray) -> list[float]:
        self.start.restore()
        losses = [self.probing.start_loss]
        for step, document in enumerate(documents):
            self.probing.train(self.sequences[document])
            losses.append(self.probing.loss(self.doc_ids[document], f"step {step + 1}"))
        return np.diff(losses).tolist()


def neighbours(run: Path, sequences: list[np.ndarray]) -> np.ndarray:
    """Cosines of all documents with each other [N, N]; -1 with themselves."""
    encoder = LmEncoder(run / "base", 1)
    features = encoder.prepare([""] * len(sequences), sequences, BATCH_TOKENS)
    encoder.calibrate(features)
    standard = ((features - encoder.mean) / encoder.scale).cpu().numpy()
    standard /= np.linalg.norm(standard, axis=1, keepdims=True)
    cosine = standard @ standard.T
    np.fill_diagonal(cosine, -1.0)
    return cosine


def line(name: str, cosine: float, shift: np.ndarray, scale: float) -> None:
    low, high = paired_interval(shift, 0.95)
    print(
        f"{name:<24}cosine {cosine:5.2f}  {shift.mean():+.5f} [{low:+.5f}, {high:+.5f}]  "
        f"{shift.mean() / scale:+.2f} standard deviations of a marginal"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--examples", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=120)
    parser.add_argument("--rollouts", type=int, default=48)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    probed = Rollouts(arguments.run, arguments.examples)
    cosine = neighbours(arguments.run, probed.sequences)
    near = np.argsort(-cosine, axis=1)
    rng = np.random.default_rng(arguments.seed)
    documents = len(cosine)

    chosen = rng.choice(documents, arguments.pairs, replace=False)
    others = rng.integers(documents, size=(2, len(chosen)))
    baseline = np.array(
        [[probed.marginals(np.array(p))[1] for p in zip(o, chosen, strict=True)] for o in others]
    )
    mean = baseline.mean(axis=0)
    before = {"itself": chosen} | {
        f"neighbour {k + 1}": near[chosen, k] for k in (0, 5, 50, documents // 2, documents - 50)
    }
    print(f"pairs: marginal of the second step, minus after a random document ({len(chosen)} each)")
    for name, first in before.items():
        second = np.array(
            [probed.marginals(np.array(p))[1] for p in zip(first, chosen, strict=True)]
        )
        similar = 1.0 if name == "itself" else float(cosine[chosen, first].mean())
        line(name, similar, second - mean, float(baseline.std()))

    shifts: dict[str, list[float]] = {"repeats": [], "neighbours": []}
    steps, similar = [], []
    for _ in range(arguments.rollouts):
        second = rng.choice(documents, 5, replace=False)
        order = rng.permutation(5)
        firsts = {"repeats": second[order], "neighbours": near[second, 0][order]}
        similar.append(cosine[second, near[second, 0]].mean())
        plain = probed.marginals(np.append(rng.choice(documents, 5, replace=False), second))[5:]
        steps += plain
        for name, first in firsts.items():
            shifts[name].append(
                float(np.mean(probed.marginals(np.append(first, second))[5:]) - np.mean(plain))
            )
    print(f"tens: mean marginal of steps 6 to 10, minus after others ({arguments.rollouts} each)")
    for name, shift in shifts.items():
        at = 1.0 if name == "repeats" else float(np.mean(similar))
        line(name, at, np.array(shift), float(np.std(steps)))


if __name__ == "__main__":
    main()
