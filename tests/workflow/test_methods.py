"""Every selector and a variant of each, side by side."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

import checkout
from groupmates import __main__ as cli
from groupmates.settings.selectors import SELECTORS
from in_process import counted_by_rule, goes_on, planned, rule_of, snakemake


def test_every_selector_and_a_variant_of_each_run_side_by_side(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a run of the default methods on: what they share is not done again."""
    variants = {
        "early": {"method": "group_mates", "rounds": "random", "relation": "none"},
        "best": {"method": "mates", "temperature": 0},
        "words": {"method": "quality", "ngrams": 1, "hash_bits": 10},
        "strict": {"method": "semdedup", "threshold": 1.0, "clusters": "influence"},
        "meaning": {"method": "group_mates", "clusters": "semantic"},
        "sparse": {"method": "oracle_greedy", "candidates": 1},
        "curved": {"method": "quad", "hessian": "gauss_newton", "damping": 0.1},
    }
    change = {
        "methods": [*SELECTORS, *variants],
        "variants": variants,
        "partitions": 2,
        "semdedup": {"threshold": 0.9999},
        "oracle_greedy": {"candidates": 3},
        "quad": {"iterations": 2, "arms_per_iteration": 3, "cg_iterations": 2},
        "quality": {"positives": "reference"},
    }
    settings = {"select": change, "reference": {"selection_examples": 12}}
    folder = checkout.copy(finished, tmp_path, settings)
    jobs = planned(folder)
    assert jobs["score_by"] == 2 * 3  # two models, three shards
    semantic = ("fit_semantic", "embed", "centroids_semantic", "cluster_semantic")
    assert [jobs[rule] for rule in semantic] == [1, 3, 1, 3]
    assert jobs["plan_one_step"] == 1
    kinds = [SELECTORS[variants.get(m, {"method": m})["method"]] for m in change["methods"]]
    expected = Counter()
    for step in (step for kind in kinds for step in kind.steps()):
        each = {"clusters": 2, "shards": 3, None: 1}  # two partitions
        expected[rule_of(step)] += each[step.shares]
    assert {rule: jobs[rule] for rule in expected} == expected
    assert not {"sample", "base", "check"} & set(jobs)
    shown = snakemake(folder, "--", "plan").stdout
    assert "Plan of the run tiny" in shown, shown[-2000:]
    root = goes_on(folder)
    assert not planned(folder)
    summary = json.loads((root / "evaluate/summary.json").read_text())
    assert set(summary["methods"]) == set(change["methods"])
    assert {m["documents"] for m in summary["methods"].values()} == {88}  # a quarter of 350
    rows = (root / "report/comparison.csv").read_text().splitlines()
    assert len(rows) == 1 + len(change["methods"])
    assert len((root / "report/comparison.md").read_text().splitlines()) == 2 + len(
        change["methods"]
    )
    with (root / "report/comparison.csv").open() as file:
        overlap = {row["method"]: float(row["oracle_overlap"]) for row in csv.DictReader(file)}
    assert (
        overlap["oracle_greedy"] == 1 > max(v for m, v in overlap.items() if m != "oracle_greedy")
    )
    assert "The methods side by side" in (root / "report.html").read_text()
    # What is allowed makes nothing stale.
    change["oracle_greedy"]["max_evaluations"] = 999
    assert not planned(checkout.configure(folder, settings))
    everything = planned(folder, "--forceall")
    counted = {name.replace("_", "-"): count for name, count in everything.items()}
    counted["score"] += counted.pop("score-by")
    for name in ("centroids", "cluster"):
        counted[name] += counted.pop(f"{name}-semantic")
    assert counted_by_rule(root / "plan.json") == counted
    for method in change["methods"]:
        status = cli.main(
            ["explain", str(root), "corpus/shard-00000.jsonl.zst#0", "--method", method]
        )
        asked = capsys.readouterr()
        if method == "early":
            assert (status, "initial model" in asked.err) == (2, True)
        else:
            assert (status, asked.err) == (0, "")
            assert method in asked.out
            told = "of the semantic ones" in asked.out
            assert told == (method in ("semdedup", "meaning"))
