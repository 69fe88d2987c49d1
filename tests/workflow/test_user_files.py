"""Files of the user: known by what they look like and hold, not by where they lie."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

import checkout
import small
from in_process import goes_on, planned, snakemake

POOL = "data/pool"
PROBED = {"sample", "reference", "plan_random", "base", "probe", "fit"}


def write_file(path: Path, first: int) -> Path:
    """60 documents of their own."""
    rows = [
        {"text": f"{' '.join(small.WORDS[i % 20 :])} number {i}"} for i in range(first, first + 60)
    ]
    return small.write_lines(path, rows)


def settings(paths: list[str], sampled: list[str] | None = None) -> dict:
    change = {
        "pool": {"paths": paths, "files_per_shard": 1},
        "reference": {"paths": ["data/reference.jsonl"]},
        "sample": {"paths": sampled},
        "cluster": {"target_size": 20},
        "evaluate": {"seeds": 1},
        "probe": {"bootstrap": {"rollouts": 0}, "groups": {"sets": 0}},
    }
    return checkout.merged(checkout.TINY, change)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose pool has a file of the next year."""
    folder = tmp_path_factory.mktemp("user") / "checkout"
    checkout.make(folder, settings([f"{POOL}/*.jsonl"], [f"{POOL}/*.jsonl"]))
    for number in range(3):
        write_file(folder / POOL / f"{number}.jsonl", 60 * number)
    future = time.time() + 365 * 86400
    os.utime(folder / POOL / "2.jsonl", (future, future))
    small.write_lines(folder / "data/reference.jsonl", small.reference_examples(30))
    goes_on(folder, "--until", "assemble")
    return folder


@pytest.fixture
def folder(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "copy", symlinks=True)


def plan(folder: Path) -> dict[str, int]:
    return planned(folder, "--until", "assemble")


def test_a_file_of_the_future_makes_nothing_stale(run: Path) -> None:
    assert not plan(run)


def test_a_pool_file_that_is_touched_is_checked_and_what_follows_made_anew(folder: Path) -> None:
    (folder / POOL / "1.jsonl").touch()
    jobs = plan(folder)
    assert jobs["check"] == 1
    assert {"sample", "base", "probe", "fit", "score", "take", "materialise"} <= jobs.keys()


def test_a_file_that_is_replaced_by_an_older_one_is_checked_anew(folder: Path) -> None:
    path = write_file(folder / POOL / "1.jsonl", 1000)
    os.utime(path, (1, 1))  # as rsync -a, tar and cp -p leave it
    assert plan(folder)["check"] == 1


def test_a_pool_that_is_moved_makes_nothing_anew_but_the_card_that_names_it(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / POOL).rename(folder / "elsewhere/pool")
    there = ["elsewhere/pool/*.jsonl"]
    (folder / "settings.yaml").write_text(json.dumps(settings(there, there)))
    assert plan(folder).keys() <= {"assemble"}


def test_a_folder_that_is_added_behind_is_scored_and_nothing_is_probed_again(folder: Path) -> None:
    write_file(folder / "data/next/0.jsonl", 180)
    first = f"{POOL}/*.jsonl"
    (folder / "settings.yaml").write_text(
        json.dumps(settings([first, "data/next/*.jsonl"], [first]))
    )
    jobs = plan(folder)
    assert (jobs["check"], jobs["score"]) == (1, 1)
    assert not PROBED & jobs.keys()


def test_a_touched_reference_file_is_read_anew_and_the_pool_is_not(folder: Path) -> None:
    (folder / "data/reference.jsonl").touch()
    jobs = plan(folder)
    assert jobs["reference"] == 1
    assert not {"check", "sample", "base"} & jobs.keys()


def test_the_workflow_runs_from_another_folder(tmp_path: Path) -> None:
    clone = checkout.make(tmp_path / "clone")
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    arguments = ("-s", str(clone / "Snakefile"), "--directory", str(elsewhere))
    shown = snakemake(clone, *arguments, "-n", "-p")
    assert shown.returncode == 0, shown.stdout[-3000:]
    assert f"{clone}/workflow/run corpus --log" in shown.stdout
    assert "\n        workflow/run" not in shown.stdout
