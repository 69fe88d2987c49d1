"""Selection rules side by side on one finished run: held-out loss after equal training tokens.

    python tests/benchmarks/variants.py results/demo config.yaml [more.yaml] [--seeds 3] [--only NAME …]

Scores, clusters and the base model of the run are used as they are; only the order of documents
changes. Prints, per variant, the mean difference to random selection with its 95 % interval over the
seeds, and how many distinct documents and tokens were picked. Two processes, one thread each.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import yaml

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "workflow"))
from groupmates.artefacts.store import read_table
from groupmates.maths.statistics import paired_interval
from groupmates.pool.listing import common_root, list_files
from groupmates.selectors import group_mates as order_group_mates
from groupmates.selectors import random as order_random
from groupmates.selectors import take
from groupmates.settings import config as c
from groupmates.settings import per_stage
from groupmates.settings.selectors import GroupMates, Random
from groupmates.stages import evaluate

NONE = {"alpha": 1.0, "beta": 1e12}  # the factor is 1: individual influence alone


def nearest(sharpness: float) -> dict:
    return {"kernel": "nearest", "alpha": 1.0, "beta": 1.0, "sharpness": sharpness}


# name -> (quota, sign, what replaces entries of relation.json)
VARIANTS: dict[str, tuple[str, str, dict]] = {
    "individual": ("marginal", "paper", NONE),
    "paper": ("proportional", "paper", {}),
    "proportional, ceiling": ("proportional", "ceiling", {}),
    "marginal, paper sign": ("marginal", "paper", {}),
    "marginal, ceiling": ("marginal", "ceiling", {}),
    "marginal, nearest^4": ("marginal", "paper", nearest(4)),
    "marginal, nearest^16": ("marginal", "paper", nearest(16)),
    "marginal, nearest^64": ("marginal", "paper", nearest(64)),
}


def merged(paths: list[str]) -> c.Config:
    def over(base: dict, top: dict) -> dict:
        both = {
            k: over(base[k], top[k]) for k in base.keys() & top.keys() if isinstance(top[k], dict)
        }
        return base | top | both

    raw: dict = {}
    for path in paths:
        raw = over(raw, yaml.safe_load(Path(path).read_text()))
    return c.load(raw)


def selected(run: Path, scratch: Path, config: c.Config, name: str) -> list[Path]:
    """Order and take one variant; the paths of its selection, one per shard."""
    score, cluster = sorted(run.glob("score/shard-*")), sorted(run.glob("cluster/shard-*"))
    folder = scratch / name.replace(" ", "_").replace(",", "").replace("^", "_")
    order, output = folder / "order.parquet", [folder / s.name for s in score]
    if name == "random":
        order_random.order(Random.Order(seed=config.seed), score=score, output=order)
    else:
        quota, sign, relation = VARIANTS[name]
        model = scratch / "model" / folder.name
        model.mkdir(parents=True)
        shutil.copy(run / "fit/final/provenance.json", model)
        fitted = json.loads((run / "fit/final/relation.json").read_text())
        (model / "relation.json").write_text(json.dumps(fitted | relation))
        settings = GroupMates.Order(
            budget=config.select.budget,
            group_mates=GroupMates(
                clusters="influence",
                quota=quota,
                sign=sign,
                relation="fitted",
                sharpness=None,
                rounds="all",
            ),
        )
        order_group_mates.order(
            settings,
            score=score,
            cluster=cluster,
            model=model,
            partition=0,
            partitions=1,
            output=order,
        )
    wanted = per_stage.TakeSettings(budget=config.select.budget)
    take.run(wanted, method=name, orders=[order], score=score, cluster=cluster, output=output)
    return output


def pool_patterns(run: Path, config: c.Config) -> list[str]:
    if config.pool.paths == "builtin":
        return sorted(map(str, run.glob("corpus/shard-*")))
    return list(config.pool.paths)


def trained(job: tuple[Path, c.Config, list[Path], int]) -> float:
    """Held-out loss after training with one seed on one selection."""
    run, config, selection, seed = job
    pool, folder = list_files(pool_patterns(run, config)), selection[0].parent
    curve = folder / f"seed-{seed}.parquet"
    evaluate.run(
        per_stage.EvaluateSettings.of(config),
        base=run / "base",
        tokenizer=run / "sample/tokenizer",
        reference=run / "sample/reference.parquet",
        select=selection,
        pool=[Path(f.path) for f in pool],
        root=Path(common_root([f.path for f in pool])),
        number=seed,
        curve=curve,
        examples=folder / f"seed-{seed}.examples.parquet",
    )
    return float(read_table(curve, "curve")["loss_nats"][-1].as_py())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("configs", nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=list(VARIANTS))
    arguments = parser.parse_args()
    config = merged(arguments.configs)
    names = ["random", *arguments.only]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        picks = {name: selected(arguments.run, scratch, config, name) for name in names}
        jobs = [
            (arguments.run, config, picks[name], seed)
            for name in names
            for seed in range(arguments.seeds)
        ]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            losses = np.array(list(pool.map(trained, jobs))).reshape(len(names), -1)
        print(f"{'variant':<24}{'loss':>8}{'minus random':>14}{'95 % interval':>20}{'tokens':>12}")
        for name, found in zip(names, losses, strict=True):
            tokens = sum(read_table(p, "select")["n_tokens"].to_numpy().sum() for p in picks[name])
            difference = found - losses[0]
            low, high = paired_interval(difference, 0.95)
            print(
                f"{name:<24}{found.mean():>8.4f}{difference.mean():>14.4f}"
                f"{f'{low:+.3f} {high:+.3f}':>20}{tokens:>12,}"
            )


if __name__ == "__main__":
    main()
