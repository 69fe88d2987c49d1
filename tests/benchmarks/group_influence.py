"""How well selectors' models rank sets of documents by their true influence as a group.

    python tests/benchmarks/group_influence.py results/RUN [results/RUN ...]

Spearman correlation with the true influence of the sets that the runs have probed (`probe.groups`): of
MATES' model of single steps (a set's documents summed), and of the final model without its relation,
with that of the selection (alpha = beta = 1), and with the fitted one. By kind and size of the sets,
mean over the runs, such as those of several sampling seeds; 95 % bootstrap intervals, sets drawn anew
in each run. Runs must have `mates` among their methods.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.maths.groups import agreement, group_influence
from groupmates.maths.labels import LabelScale
from groupmates.maths.relation import Relation
from groupmates.models.encoders import BATCH_TOKENS
from groupmates.models.influence import InfluenceModel
from groupmates.models.text import token_lists
from groupmates.store import concatenate, embeddings, read_folder_json, read_table

SHARPNESS = 32  # of the selection
NAMES = ("single steps", "none", "unit", "fitted")


def read(run: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Kind of each set [S], sizes [Z], true influences [S, Z], predictions [4, S, L] of the NAMES."""
    plan = read_table(run / "probe/groups/sets.parquet", "group_sets")
    plan = plan.sort_by([("set", "ascending"), ("step", "ascending")])
    parts = sorted(run.glob("probe/groups/part-*.parquet"))
    truth = concatenate(parts, "group_probe", ["set", "size", "influence_nats"])
    truth = truth.sort_by([("set", "ascending"), ("size", "ascending")])
    sizes = np.unique(plan["size"].to_numpy())
    shape = (-1, int(sizes[-1]))
    pool = read_table(
        run / "sample/probe_pool.parquet", "probe_pool", ["doc_id", "text", "input_ids"]
    )
    row_of = {d: i for i, d in enumerate(pool["doc_id"].to_pylist())}
    rows = np.array([row_of[d] for d in plan["doc_id"].to_pylist()])
    asked, place = np.unique(rows, return_inverse=True)
    pool = pool.take(asked)
    model = InfluenceModel.load(run / "fit/one_step")
    single, _ = model.score(pool["text"].to_pylist(), token_lists(pool), BATCH_TOKENS)
    record = read_folder_json(run / "fit/final", "fit", "relation.json")
    relation = Relation.from_json(record)
    scale = LabelScale(np.array(record["label_mean_nats"]), np.array(record["label_std_nats"]))
    individual = plan["individual_influence"].to_numpy().reshape(shape).astype(np.float64)
    emb = embeddings(plan).reshape(*individual.shape, -1)
    predicted = [np.cumsum(single[place].reshape(shape), axis=1)]
    for used in ("none", "unit", "fitted"):
        own = relation.used_as(used, SHARPNESS) if used == "unit" else relation.used_as(used)
        predicted.append(
            [group_influence(own, i, e, scale) for i, e in zip(individual, emb, strict=True)]
        )
    kind = plan["kind"].to_numpy().reshape(shape)[:, 0]
    true = truth["influence_nats"].to_numpy().reshape(-1, len(sizes))
    return kind, sizes, true, np.array(predicted)


def main() -> None:
    torch.set_num_threads(1)
    runs = [read(Path(name)) for name in sys.argv[1:]]
    sizes = runs[0][1]
    for kind in ("random", "near"):
        for z, size in enumerate(sizes.tolist()):
            value, drawn = [], []
            for number, (kinds, _, true, predicted) in enumerate(runs):
                of_kind = np.flatnonzero(kinds == kind)
                found = agreement(
                    true[of_kind, z], predicted[:, of_kind, size - 1], np.random.default_rng(number)
                )
                value.append(found[0])
                drawn.append(found[1])
            mean, spread = np.mean(value, axis=0), np.mean(drawn, axis=0)
            line = [f"{n} {told(mean[i], spread[:, i])}" for i, n in enumerate(NAMES)]
            line += [
                f"unit minus {NAMES[i]} {told(mean[2] - mean[i], spread[:, 2] - spread[:, i], '+')}"
                for i in (0, 1, 3)
            ]
            print(f"{size:>3} {kind:<7}" + "; ".join(line), flush=True)


def told(value: float, drawn: np.ndarray, sign: str = "") -> str:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


if __name__ == "__main__":
    main()
