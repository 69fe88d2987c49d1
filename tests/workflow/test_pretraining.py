"""Models pretrained on the selections of a finished run, `snakemake pretrain`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import checkout
import core_folder
from groupmates.artefacts.store import read_table
from in_process import goes_on, planned, snakemake

MADE = {"family": "qwen3", "hidden_size": 32, "layers": 1, "heads": 2}
ASKED = {"methods": ["random"], "seeds": 2, "start": "scratch", "architecture": MADE}
ASKED |= {"tokens": 2048, "batch_sequences": 4, "learning_rate": 1e-2, "warmup_steps": 2}


@pytest.fixture
def asked(finished: Path, tmp_path: Path) -> Path:
    return checkout.copy(finished, tmp_path, {"pretrain": ASKED})


def test_a_finished_run_trains_models_on_its_selections_and_nothing_else(asked: Path) -> None:
    assert not planned(asked)  # the run itself does not need them
    jobs = planned(asked, "--", "pretrain")
    assert jobs == {"pretrain_tokens": 3, "pretrain_model": 2, "pretrain": 1}
    shown = snakemake(asked, "--", "plan").stdout
    assert "pretrain-tokens" in shown, shown[-2000:]
    root = goes_on(asked, "--", "pretrain") / "pretrain/random"
    assert planned(asked, "--", "pretrain").keys() <= {"pretrain"}
    # Further outputs hide no change of a setting.
    checkout.configure(asked, {"pretrain": ASKED | {"milestones": [0.5], "learning_rate": 2e-2}})
    assert planned(asked, "--", "pretrain") == {"pretrain_model": 2, "pretrain": 1}
    curves = []
    for seed in (0, 1):
        training = json.loads((root / f"seed-{seed}/training.json").read_text())
        assert training["pretrain"] == {"steps": 16, "tokens": 2048}
        curve = read_table(root / f"seed-{seed}.parquet", "pretrain_curve").to_pydict()
        assert curve["tokens"][-1] == 2048
        assert curve["heldout_nats"][-1] < curve["heldout_nats"][0]
        curves.append(curve)
    assert curves[0] != curves[1]


def test_without_a_method_there_is_nothing_to_pretrain(finished: Path, tmp_path: Path) -> None:
    done = snakemake(checkout.copy(finished, tmp_path), "-n", "--", "pretrain")
    assert done.returncode != 0
    assert "set pretrain.methods to some of select.methods" in done.stdout


def test_a_tracker_without_its_package_is_told_before_anything_runs(
    finished: Path, tmp_path: Path
) -> None:
    change = {"pretrain": {"methods": ["random"], "tracker": "nonesuch"}}
    folder = checkout.copy(finished, tmp_path, change)
    assert not planned(folder)  # a run trains no such model
    for target in ("pretrain", "frontier"):
        done = snakemake(folder, "-n", "--", target)
        assert done.returncode != 0
        assert "no package 'nonesuch'" in done.stdout
        assert "pip install nonesuch" in done.stdout


@pytest.mark.parametrize(
    ("stages", "last"),
    [([1.0], "pretrain/random"), ([0.5, 0.5], "stages/2/random/pretrain/random")],
)
def test_core_is_asked_of_the_last_model_of_every_training(
    stages: list[float], last: str, finished: Path, tmp_path: Path
) -> None:
    settings = {
        "pretrain": {"methods": ["random"], "seeds": 2, "stages": stages},
        "core": {"pretrained": True, "data": "tasks"},
    }
    folder = checkout.copy(finished, tmp_path, settings)
    (folder / "tasks").mkdir()
    question = {"context": "a question", "continuation": "answer"}
    core_folder.write(folder / "tasks", {"squad": [question] * 3})
    jobs = planned(folder, "--", "core")
    assert (jobs["pretrain_model"], jobs["core_task"], jobs["core"]) == (2 * len(stages), 2, 1)
    shown = snakemake(folder, "-n", "-p", "--", "core").stdout
    for seed in (0, 1):
        assert f"--checkpoint results/tiny/{last}/seed-{seed} --data tasks" in shown
        assert f"results/tiny/core/random_{seed}/squad.parquet" in shown
