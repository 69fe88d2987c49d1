"""How the influence model's map should begin: at directions of the probed model, or whitened ones.

    python tests/benchmarks/embeddings.py results/RUN [--splits 4] [--sizes 64 96] [--powers 0 0.25 0.5]

Fits the influence model of a finished run anew, with its rollouts and settings. The map's beginning
is divided by the variance along each direction to the given power. Power 0 are plain directions, 0.5
is the whitening that the encoder begins with. Each split holds other rollouts out. Prints, by split
and as a mean, the held-out Spearman correlation within positions of the individual influence. Prints
the median and the 90th percentile of a document's cosine to its nearest neighbour in the probe pool.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.artefacts.store import Provenance, read_table
from groupmates.maths.labels import LabelScale, label_scale
from groupmates.maths.statistics import spearman
from groupmates.models.influence import InfluenceModel, make_encoder
from groupmates.models.resumable import Training
from groupmates.models.tokenizer import token_lists
from groupmates.settings.per_stage import FitSettings
from groupmates.stages import fit

DOCUMENTS = 1500  # whose nearest neighbours are looked for


def begin(model: InfluenceModel, prepared: torch.Tensor, power: float) -> None:
    """The map begins whitened; less of it where the power is below 0.5."""
    encoder = model.encoder
    encoder.calibrate(prepared)
    with torch.no_grad():
        length_D1 = encoder.map.weight.norm(dim=1, keepdim=True)  # 1 / standard deviation
        encoder.map.weight.mul_(length_D1 ** (2 * power - 1))


def read_run(run: Path, model: str = "final") -> tuple[FitSettings, pa.Table, list[fit.Rollouts]]:
    """Settings of a fit of a finished run, its probe pool, its rollouts by round."""
    made = json.loads((run / f"fit/{model}/provenance.json").read_text())
    pool = read_table(run / "sample/probe_pool.parquet", "probe_pool", ["doc_id", "input_ids"])
    ids = pool["doc_id"].to_pylist()
    names = ["one_step"] if model == "one_step" else ["random", "bootstrap"]
    rounds = [
        fit.read_rollouts(r, sorted(run.glob(f"probe/{r}/shard-*.parquet")), ids) for r in names
    ]
    return FitSettings.model_validate(made["settings"]), pool, rounds


def refitted(
    settings: FitSettings,
    run: Path,
    prepared: torch.Tensor,
    training: list[fit.Rollouts],
    validation: fit.Rollouts,
    power: float,
    seeds: tuple[int, int],
) -> tuple[InfluenceModel, LabelScale]:
    """A model, and what its labels were scaled by; `seeds`: of the weights, and of the dropout."""
    scale = label_scale(np.concatenate([r.influence for r in training]), per_position=True)
    torch.manual_seed(seeds[0])
    model = InfluenceModel(settings.fit, make_encoder(settings.fit, run / "base"))
    begin(model, prepared, power)
    optimizer = fit.make_optimizer(model, settings.fit.training)
    made = Provenance("fit", {"power": power, "seed": settings.seed}, {})
    with (
        tempfile.TemporaryDirectory() as folder,
        Training(Path(folder) / "fit", "fit", made, model, optimizer, seeds[1]) as under_way,
    ):
        fit.train(settings, under_way, model, optimizer, prepared, training, validation, scale)
    return model.eval(), scale


def fitted(settings: FitSettings, run: Path, prepared: torch.Tensor, rounds: list, power: float):
    """Held-out correlation; cosines to the nearest neighbour of some documents."""
    training, validation, heldout = fit.split(settings, rounds)
    seeds = settings.seed, settings.seed
    model, scale = refitted(settings, run, prepared, training, validation, power, seeds)
    predicted = fit.predict_individual(model, prepared, heldout.document)
    with torch.no_grad():
        emb_ND = model.encoder(prepared, np.arange(len(prepared))).numpy()
    cosine = emb_ND[:DOCUMENTS] @ emb_ND.T
    np.fill_diagonal(cosine, -1)
    return spearman(predicted, scale.standardise(heldout.influence)), cosine.max(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--splits", type=int, default=4)
    parser.add_argument("--sizes", nargs="+", type=int, default=[64, 96])
    parser.add_argument("--powers", nargs="+", type=float, default=[0, 0.25, 0.5])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = arguments.run
    settings, pool, rounds = read_run(run)
    encoder = make_encoder(settings.fit, run / "base")
    prepared = encoder.prepare([], token_lists(pool), 8192)
    for size in arguments.sizes:
        lm = settings.fit.encoder.model_copy(update={"embedding_size": size})
        sized = settings.fit.model_copy(update={"encoder": lm})
        for power in arguments.powers:
            found = [
                fitted(
                    settings.model_copy(update={"seed": seed, "fit": sized}),
                    run,
                    prepared,
                    rounds,
                    power,
                )
                for seed in range(arguments.splits)
            ]
            correlation, nearest = np.array([f[0] for f in found]), np.array([f[1] for f in found])
            print(
                f"size {size}, power {power}: Spearman {correlation.mean():.3f} "
                f"({', '.join(f'{c:.3f}' for c in correlation)}), nearest neighbour "
                f"{np.median(nearest):.3f}, 90 % {np.quantile(nearest, 0.9):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
