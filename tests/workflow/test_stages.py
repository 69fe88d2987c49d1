"""Stages of pretraining: the graph of all of them, and a run of two that is killed in each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import checkout
import core_folder
import trainings
from groupmates import __main__ as cli
from groupmates.artefacts.ledger import consumed
from groupmates.artefacts.store import concatenate, read_table
from groupmates.models.resumable import Training
from in_process import counted_by_rule, planned, snakemake
from killed import dying, saving

# Of a run whose selections are a quarter of the pool: its first stage is that run.
STAGED = {
    "select": {"budget": {"ratio": 0.5}},
    "pretrain": {
        "methods": ["random", "group_mates"],
        "stages": [0.5, 0.5],
        "tokens": 2048,
        "batch_sequences": 4,
        "warmup_steps": 2,
        "points": 3,
    },
}
ORDERING = {"plan_random": 1, "probe": 4, "fit": 2, "accept": 2, "plan_bootstrap": 1, "score": 3}
ORDERING |= {"centroids": 1, "cluster": 3, "order": 1}
LATER = "results/tiny/stages/2"
CHOICES = [
    {"query": f"the {word} of", "choices": ["the sea", "a road", "stone"], "gold": i}
    for i, word in enumerate(("depth", "end", "weight"))
]


def inputs(shown: str) -> dict[str, str]:
    """The inputs of the jobs of a dry run, by their logs."""
    jobs = re.findall(r"input: (.*)\n(?:.*\n)*? +log: \S*?/logs/(\S+)\.log", shown)
    return {log: files for files, log in jobs}


def test_later_stages_go_on_from_a_run_that_stays_as_it_is(finished: Path, tmp_path: Path) -> None:
    """Each method selects anew with its model of the stage before; a random one needs no model."""
    folder = checkout.copy(finished, tmp_path, STAGED)
    assert not planned(folder)
    each = {"take": 1, "pretrain_tokens": 3, "pretrain_model": 1}
    first = {"pretrain_tokens": 2 * 3, "pretrain_model": 2}
    expected = {rule: 2 * jobs for rule, jobs in each.items()} | ORDERING
    expected |= {rule: expected[rule] + jobs for rule, jobs in first.items()}
    found = planned(folder, "--", "pretrain")
    assert {rule: jobs for rule, jobs in found.items() if rule != "pretrain"} == expected

    of = inputs(snakemake(folder, "--nolock", "-n", "--", "pretrain").stdout)
    mine, trained = "stages/2/group_mates", "results/tiny/pretrain/group_mates/seed-0"
    for job in ("probe_random_00000", "fit_final", "pretrain_model_group_mates_0"):
        assert f"{trained}," in of[f"{mine}/{job}"], job
    take = of[f"{mine}/take_group_mates"]
    assert f"{trained}.ledger.parquet" in take
    assert f"{LATER}/group_mates/score/shard-00002.parquet" in take
    take = of["stages/2/random/take_random"]
    assert "results/tiny/order/random/part-00000.parquet" in take
    assert LATER not in take
    checkout.configure(folder, checkout.merged(STAGED, {"pretrain": {"repeat": True}}))
    of = inputs(snakemake(folder, "--nolock", "-n", "--", "pretrain").stdout)
    assert "ledger" not in of[f"{mine}/take_group_mates"]


def test_a_plan_counts_the_jobs_of_all_stages(finished: Path, tmp_path: Path) -> None:
    methods = ["random", "group_mates", "mates", "color"]
    change = {"select": {"methods": methods}, "pretrain": {"methods": methods, "seeds": 2}}
    change["pretrain"]["stages"] = [0.4, 0.3, 0.3]
    folder = checkout.copy(finished, tmp_path, checkout.merged(STAGED, change))
    everything = planned(folder, "--forceall", "--", "all", "pretrain")
    counted = {name.replace("_", "-"): count for name, count in everything.items()}
    counted["score"] += counted.pop("score-by")
    counted["pretrain"] = counted.pop("pretrain-model")
    done = snakemake(folder, "--nolock", "--", "plan")
    assert done.returncode == 0, done.stdout[-3000:]
    assert counted_by_rule(folder / "results/tiny/plan.json") == counted


@pytest.mark.long
def test_two_stages_killed_in_each_end_as_if_they_were_not(
    finished: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The second stage takes nothing that the first was trained on, and goes on from its model."""
    core_folder.write(tmp_path, {"copa": CHOICES})
    settings = checkout.merged(STAGED, {"pretrain": {"methods": ["group_mates"]}})
    settings |= {"core": {"pretrained": True, "data": str(tmp_path)}}
    wanted = ("--nolock", "--", "core", f"{LATER}/group_mates/dataset/group_mates.json")
    folders = []
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
        folders.append(checkout.copy(finished, tmp_path / name, settings))
    done = snakemake(folders[0], *wanted)
    assert done.returncode == 0, done.stdout[-4000:]
    saving(monkeypatch)
    steps = dying(monkeypatch, Training, "step", every=7)  # of twice eight
    ends = [snakemake(folders[1], *wanted).returncode for _ in range(3)]
    assert (ends, len(steps)) == ([1, 1, 0], 18)
    table = (folders[1] / "results/tiny/core/table.md").read_text()
    assert "| group_mates_0 | copa | 3 |" in table

    whole, root = (folder / "results/tiny" for folder in folders)
    for made in ("pretrain", "stages", "core"):
        assert trainings.artefacts(root / made) == trainings.artefacts(whole / made)
    line = root / "stages/2/group_mates"
    ledger = root / "pretrain/group_mates/seed-0.ledger.parquet"
    first, select = read_table(ledger, "ledger"), sorted(line.glob("select/*/*.parquet"))
    second = concatenate(select, "select")["doc_id"].to_pylist()
    assert len(second) == 88
    assert not set(first["doc_id"].to_pylist()) & set(second)
    assert json.loads((line / "dataset/group_mates.json").read_text())["documents"] == 88
    curve = read_table(line / "pretrain/group_mates/seed-0.parquet", "pretrain_curve")
    assert curve["tokens"].to_pylist() == [2048]
    told = consumed(root, "group_mates")
    assert [(c.stage, c.tokens) for c in told] == [(1, 1024), (2, 1024)]
    assert told[0].documents == len(first)
    asked = ["explain", str(line), first["doc_id"][0].as_py(), "--method", "group_mates"]
    assert cli.main(asked) == 0
    assert "stage 1 of pretraining was trained on it" in capsys.readouterr().out
