"""What the rules of selectors are told, by a configuration with every kind of step."""

from __future__ import annotations

import os
import shlex
import shutil
from types import SimpleNamespace

import pytest

from groupmates.errors import UserError
from groupmates.pool.listing import PoolFile
from groupmates.selectors.step_jobs import StepJobs
from groupmates.settings.config import load
from planned import configuration

METHODS = ["random", "group_mates", "quality", "color", "oracle_greedy"]
SHARDS = {
    "00000": [PoolFile("pool/a-0.jsonl", "a-0.jsonl"), PoolFile("pool/a-1.jsonl", "a-1.jsonl")],
    "00001": [PoolFile("pool/it's b.jsonl", "it's b.jsonl")],
}


def artefact(line: str, name: str, **wildcards: object) -> str:
    given = [str(value) for value in wildcards.values() if value]
    return "/".join(["run", f"{line}{name}", *given, *(["{shard}"] if name == "score" else [])])


def jobs(step: str, positives: object = "reference", made: int = 3) -> StepJobs:
    select = {
        "methods": METHODS,
        "partitions": 4,
        "quality": {"positives": positives},
        "oracle_greedy": {"max_evaluations": 99},
    }
    config = load(configuration(select=select))
    return StepJobs(step, config, SHARDS, artefact, lambda paths: paths[:made])


def job(method: str, partition: str = "00000") -> SimpleNamespace:
    return SimpleNamespace(method=method, partition=partition)


def test_methods_are_those_that_have_the_step_with_a_gpu_or_without():
    assert jobs("order").methods(gpu=False) == "random|group_mates|quality"
    assert jobs("order").methods(gpu=True) == "color|oracle_greedy"
    assert jobs("prepare").methods(gpu=False) == "quality|oracle_greedy"


def test_inputs_are_named_by_their_arguments_and_an_artefact_with_shards_is_all_of_them():
    scores = ["run/score/group_mates/00000", "run/score/group_mates/00001"]
    assert jobs("order").inputs(job("group_mates")) == {
        "score": scores,
        "model": "run/fit/group_mates/final",
        "cluster": "run/cluster/group_mates",
    }


def test_of_the_pool_a_job_reads_its_shard_or_all_and_waits_for_what_the_run_makes():
    of_shard = jobs("order").inputs(job("color", "00001"))["pool"]
    assert of_shard == ["pool/it's b.jsonl"]
    whole = [file.path for files in SHARDS.values() for file in files]
    assert jobs("order").inputs(job("oracle_greedy"))["pool"] == whole
    assert jobs("order", made=0).inputs(job("oracle_greedy"))["pool"] == []


def test_the_command_names_inputs_as_ranges_and_the_part_of_the_work():
    words = jobs("order", made=0).arguments(job("color", "00001"), {"score": SHARDS, "pool": []})
    assert shlex.split(words) == [
        *("--score", "{00000..00001}", "--pool", "pool/./it's b.jsonl"),
        *("--partition", "1", "--partitions", "2"),
    ]
    words = jobs("order").arguments(job("oracle_greedy"), {})
    assert shlex.split(words) == ["--pool", "pool/./a-{0..1}.jsonl", "pool/./it's b.jsonl"]
    words = jobs("order").arguments(job("group_mates", "00003"), {"model": "the model"})
    assert words == "--model 'the model' --partition 3 --partitions 4"


def test_a_limit_is_passed_to_what_prepares_and_to_nothing_else():
    assert jobs("prepare").arguments(job("oracle_greedy"), {}) == "--max-evaluations 99"
    assert "--max-evaluations" not in jobs("order").arguments(job("oracle_greedy"), {})


def test_jobs_share_the_clusters_or_have_a_shard_each():
    shared = {method: jobs("order").partitions(job(method)) for method in METHODS}
    assert shared == {"random": 1, "group_mates": 4, "quality": 2, "color": 2, "oracle_greedy": 1}


def test_what_a_step_asks_for_is_that_of_its_class_and_may_grow():
    order = jobs("order")
    assert [order.of("threads")(job(m)) for m in ("random", "group_mates")] == [1, 2]

    def twice(amount: int):
        return lambda wildcards, attempt: amount * attempt

    grown = order.resources(memory=twice, minutes=twice)
    assert grown["mem_mb"](job("group_mates"), 2) == 64000
    assert grown["runtime"](job("group_mates"), 3) == 720


def test_files_of_the_user_must_be_there_and_are_known_by_size_and_time_not_by_their_path(tmp_path):
    good = tmp_path / "good.jsonl"
    of_user = jobs("prepare", [str(good)])
    for asked in (of_user.seen, lambda wildcards: of_user.arguments(wildcards, {})):
        with pytest.raises(UserError, match=r"good\.jsonl"):
            asked(job("quality"))
    good.touch()
    assert "positives" not in of_user.inputs(job("quality"))
    assert f"--positives {good}" in of_user.arguments(job("quality"), {})
    moved = shutil.copy2(good, tmp_path / "moved.jsonl")
    seen = of_user.seen(job("quality"))
    assert jobs("prepare", [str(moved)]).seen(job("quality")) == seen
    older = shutil.copy2(good, tmp_path / "older.jsonl")
    os.utime(older, (0, 0))
    assert jobs("prepare", [str(older)]).seen(job("quality")) != seen
