"""How well selectors' models rank sets of documents by their true influence as a group.

    python tests/benchmarks/group_influence.py results/RUN [results/RUN ...]

Prints Spearman correlations with the true influence of the sets that the runs have probed
(`probe.groups`). MATES' model of single steps is compared, with a set's documents summed. So is the
final model: without relation, with the selection's (alpha = beta = 1), and with the fitted one.
Figures are by kind and size of the sets, and means over the runs. Intervals are 95 % of a bootstrap
that draws the sets of each run anew. Runs must have `mates` among their methods.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.artefacts.store import read_artefact_json, read_folder_json, read_table
from groupmates.maths.document_sets import agreement
from groupmates.models.encoders import BATCH_TOKENS
from groupmates.models.influence import InfluenceModel
from groupmates.models.tokenizer import token_lists
from groupmates.stages import set_agreement

NAMES = ("single steps", "none", "unit", "fitted")


def read(run: Path) -> tuple[set_agreement.Sets, np.ndarray]:
    """The probed sets of a run, and the predictions [4, S, L] of the NAMES."""
    sets = set_agreement.read_sets(
        run / "probe/groups/sets.parquet", sorted(run.glob("probe/groups/part-*.parquet"))
    )
    names = ["doc_id", "text", "input_ids"]
    pool = read_table(run / "sample/probe_pool.parquet", "probe_pool", names)
    row_of = {d: i for i, d in enumerate(pool["doc_id"].to_pylist())}
    rows = np.array([row_of[d] for d in sets.plan["doc_id"].to_pylist()])
    asked, place = np.unique(rows, return_inverse=True)
    pool = pool.take(asked)
    model = InfluenceModel.load(run / "fit/one_step")
    single, _ = model.score(pool["text"].to_pylist(), token_lists(pool), BATCH_TOKENS)
    record = read_folder_json(run / "fit/final", "fit", "relation.json")
    made = read_artefact_json(run / "groups/correlation.json", "groups")
    used = set_agreement.relations(record, made["provenance"]["settings"]["sharpness"])
    steps_SL = np.cumsum(single[place].reshape(sets.individual_SL.shape), axis=1)
    return sets, np.array([steps_SL, *(sets.predicted(used[n], record) for n in NAMES[1:])])


def main() -> None:
    torch.set_num_threads(1)
    runs = [read(Path(name)) for name in sys.argv[1:]]
    for kind in ("random", "near"):
        for z, size in enumerate(runs[0][0].size_Z.tolist()):
            value, drawn = [], []
            for number, (sets, predicted) in enumerate(runs):
                of_kind = np.flatnonzero(sets.kind_S == kind)
                found = agreement(
                    sets.truth_SZ[of_kind, z],
                    predicted[:, of_kind, size - 1],
                    np.random.default_rng(number),
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
