"""The methods side by side: what each is said to cost, and how much its documents repeat."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from test_report import report, settings, synthetic_run

import checkout
import tables
from groupmates import formatting
from groupmates.artefacts.store import read_table
from groupmates.pool.listing import PoolFile
from groupmates.report import comparison
from groupmates.report.data.reading import Records
from groupmates.report.data.repeats import repeats
from groupmates.settings.config import load
from groupmates.settings.per_stage import ReportSettings
from groupmates.settings.sections import PoolColumns

PLAIN = PoolColumns(text="text", id="id", source=None)
ALIKE = "the quick brown fox jumps over the lazy dog and then it rests a while"

# Every job of a run with all kinds of methods, as its command line tells what it is.
JOBS = [
    *("check shard=00000", "check shard=00001", "check_pool", "sample", "reference", "base"),
    *("prepare method=oracle_greedy", "plan_random", "plan_bootstrap"),
    *("plan_one_step", "probe round=random part=00000", "probe round=bootstrap part=00000"),
    *("probe round=one_step part=00000", "fit model=initial", "fit model=final"),
    *("fit model=one_step", "accept model=initial", "accept model=final"),
    *("prepare method=quality", "score shard=00000", "score_by model=initial shard=00000"),
    *("score_by model=one_step shard=00000", "centroids", "cluster shard=00000"),
    *("distil model=final", "score_student shard=00000"),
    *("distil model=one_step", "score_student_by model=one_step shard=00000"),
    *("fit_semantic", "embed shard=00000", "centroids_semantic"),
    *("cluster_semantic shard=00000", "prepare_gpu method=quad", "prepare_gpu method=quad_2"),
    *("order method=random partition=00000", "order method=group_mates partition=00000"),
    *("order method=ours partition=00000", "order method=mates partition=00000"),
    *("order method=mates_2 partition=00000", "order method=quad partition=00000"),
    *("order method=quality partition=00000",),
    *("order method=quality partition=00001",),
    *("order method=semdedup partition=00000",),
    *("order_gpu method=oracle_greedy partition=00000", "take method=random"),
    *("take method=group_mates", "take method=ours", "take method=mates", "take method=quality"),
    *("take method=semdedup", "take method=oracle_greedy", "take method=quad"),
    *("evaluate method=random seed=0", "evaluate method=random seed=1"),
    *("evaluate method=random_2 seed=0", "summarise", "assemble method=quad"),
]
CHECKS = {"check shard=00000", "check shard=00001", "check_pool"}
POOL = CHECKS | {"sample", "reference"}
RANDOM_ROUND = {
    *("plan_random", "probe round=random part=00000", "fit model=initial", "accept model=initial"),
}
CLUSTERS = {"centroids", "cluster shard=00000"}
SEMANTIC = {
    *("fit_semantic", "embed shard=00000", "centroids_semantic", "cluster_semantic shard=00000"),
}
BOTH_ROUNDS = RANDOM_ROUND | {
    *("plan_bootstrap", "probe round=bootstrap part=00000", "fit model=final"),
    *("accept model=final", "score shard=00000", "distil model=final", "score_student shard=00000"),
}
ONE_STEP = {
    *("plan_one_step", "probe round=one_step part=00000", "fit model=one_step"),
    "score_by model=one_step shard=00000",
    *("distil model=one_step", "score_student_by model=one_step shard=00000"),
}
BY_INITIAL = RANDOM_ROUND | {"score_by model=initial shard=00000"}


def took(seconds: int) -> list[dict[str, Any]]:
    """A job killed in the middle and begun anew: the attempt that it ended with took so long."""
    attempt = {"started": 0, "heard": 1, "ended": 1, "state": "killed", "phases": []}
    return [attempt, attempt | {"ended": seconds, "state": "done"}]


def records(seconds: dict[str, int]) -> Records:
    found = {}
    for job, number in seconds.items():
        rule, *pairs = job.split()
        named = {"rule": rule, "wildcards": dict(pair.split("=") for pair in pairs)}
        found[job] = [attempt | named for attempt in took(number)]
    return found


# Each with a power of two as its seconds.
RUN = records({job: 2**number for number, job in enumerate(JOBS)})


def jobs_in(seconds: int) -> set[str]:
    """The jobs whose powers of two add up to the seconds."""
    return {job for number, job in enumerate(JOBS) if seconds >> number & 1}


OURS = {"ours": {"method": "group_mates", "rounds": "random"}}


@pytest.mark.parametrize(
    ("method", "clusters", "shared"),
    [
        ("random", "influence", CHECKS),
        ("group_mates", "influence", POOL | BOTH_ROUNDS | CLUSTERS),
        ("group_mates", "semantic", POOL | BOTH_ROUNDS | SEMANTIC),
        ("ours", "influence", POOL | BY_INITIAL | CLUSTERS),
        ("ours", "semantic", POOL | BY_INITIAL | SEMANTIC),
        ("mates", "influence", POOL | ONE_STEP),
        ("quality", "influence", POOL | {"prepare method=quality"}),
        ("semdedup", "influence", POOL | BOTH_ROUNDS | CLUSTERS),
        ("semdedup", "semantic", POOL | SEMANTIC),
        ("oracle_greedy", "influence", POOL | {"prepare method=oracle_greedy"}),
        ("quad", "influence", POOL | BOTH_ROUNDS | CLUSTERS | {"prepare_gpu method=quad"}),
    ],
)
def test_a_method_is_charged_every_job_that_it_needs_and_no_other(method, clusters, shared):
    chosen = {"clusters": clusters}
    select = {"methods": [method], "variants": OURS, "group_mates": chosen, "semdedup": chosen}
    select["quality"] = {"positives": "reference"}
    charged = ReportSettings.of(
        load(
            checkout.merged(checkout.DEFAULTS, {"select": select, "probe": {"labels": "rollouts"}})
        )
    ).charged
    orders = {job for job in JOBS if re.match(rf"order(_gpu)? method={method} ", job)}
    seconds = comparison.selection_seconds(RUN, method, charged[method])
    assert jobs_in(seconds) == shared | orders | {f"take method={method}"}
    assert orders


def test_randoms_training_is_the_base_model_and_the_mean_over_seeds():
    at = {job: 2**number for number, job in enumerate(JOBS)}
    found = comparison.training_seconds(RUN, "random", seeds=2)
    both = at["evaluate method=random seed=0"] + at["evaluate method=random seed=1"]
    assert found == at["base"] + both / 2
    assert comparison.training_seconds(RUN, "quality", seeds=2) is None


def test_selection_is_told_as_a_multiple_of_randoms_training(tmp_path):
    arguments = synthetic_run(tmp_path, methods=("group_mates", "random"))
    jobs = {"check shard=00000": 1, "base": 10}
    jobs |= {"order method=group_mates partition=00000": 29}
    jobs |= {f"evaluate method=random seed={seed}": 2 for seed in range(3)}
    summary = json.loads(arguments["summary"].read_text())
    best, random = comparison.table(summary, settings(), records(jobs))
    assert (best["selection_seconds"], best["selection_per_random_training"]) == (30, 2.5)
    assert random["selection_per_random_training"] == pytest.approx(1 / 12)
    assert [formatting.times(r["selection_per_random_training"]) for r in (best, random)] == [
        "2.5×",
        "0.08×",
    ]


def selection(folder: Path, method: str, shard: int, places: list[tuple[str, int]]) -> Path:
    path = folder / f"select/{method}/shard-{shard:05}.parquet"
    return tables.selection(path, places)


def pool_of(folder: Path, texts: dict[str, list[str]]) -> list[PoolFile]:
    for name, rows in texts.items():
        lines = [json.dumps({"id": f"{name}#{i}", "text": t}) + "\n" for i, t in enumerate(rows)]
        (folder / name).write_text("".join(lines))
    return [PoolFile(str(folder / name), name) for name in texts]


def test_repeats_are_counted_by_method_over_files_and_shards(tmp_path):
    files = pool_of(
        tmp_path, {"a.jsonl": [ALIKE, "else"], "b.jsonl": ["new", ALIKE, ALIKE.upper()]}
    )
    select = {
        "both": {
            "shard-00000": selection(tmp_path, "both", 0, [("a.jsonl", 0), ("a.jsonl", 1)]),
            "shard-00001": selection(tmp_path, "both", 1, [("b.jsonl", 1), ("b.jsonl", 2)]),
        },
        "none": {"shard-00000": selection(tmp_path, "none", 0, [("a.jsonl", 0), ("b.jsonl", 0)])},
    }
    found = repeats(select, files, PLAIN)
    assert {m: (r.share, r.documents) for m, r in found.items()} == {
        "both": (0.5, 4),  # two of four repeat the first
        "none": (0.0, 2),
    }
    # Of documents whose file is not read nothing is known, and without any nothing is said.
    few = repeats(select, files[1:], PLAIN)
    assert {m: (r.share, r.documents) for m, r in few.items()} == {
        "both": (0.5, 2),
        "none": (0.0, 1),
    }
    assert repeats(select, [], PLAIN) == {}


def test_of_a_large_selection_documents_are_drawn_whatever_the_shards(tmp_path):
    files = pool_of(tmp_path, {"a.jsonl": [f"{ALIKE} {i % 5} {ALIKE}" for i in range(60)]})
    whole = {"m": {"0": selection(tmp_path, "whole", 0, [("a.jsonl", i) for i in range(60)])}}
    parts = {
        "m": {
            str(s): selection(tmp_path, "parts", s, [("a.jsonl", i) for i in rows])
            for s, rows in enumerate((range(30), range(30, 60)))
        }
    }
    found = repeats(whole, files, PLAIN, most=20)["m"]
    assert found == repeats(parts, files, PLAIN, most=20)["m"]
    assert found.documents == 20
    assert repeats(whole, files, PLAIN)["m"].documents == 60


def test_the_page_of_three_methods_shows_cost_and_repeats(tmp_path):
    arguments = synthetic_run(tmp_path, methods=("group_mates", "mates", "random"))
    first = arguments["pool"][0]
    rows = [json.loads(line) for line in first.read_text().splitlines()]
    first.write_text("".join(json.dumps(row | {"text": ALIKE}) + "\n" for row in rows))
    text = report(arguments).text.replace(formatting.SPACE, " ")
    assert "The methods side by side" in text and "near-duplicates" in text
    table = (tmp_path / "report/comparison.csv").read_text().splitlines()
    cells = [dict(zip(table[0].split(","), line.split(","), strict=True)) for line in table[1:]]
    kept = read_table(arguments["select"][0], "select", ["source_file"])["source_file"].to_pylist()
    repeated = kept.count(first.name) - 1  # all of that file but the first
    found = next(row for row in cells if row["method"] == "group_mates")
    assert float(found["near_duplicate_share"]) == pytest.approx(repeated / 100)
    assert found["near_duplicates_sought_in"] == "100"
    assert f"<td>{repeated:.1f} %</td>" in text
    assert "were sought among" not in text


def test_without_texts_the_page_says_that_no_near_duplicates_were_sought(tmp_path):
    arguments = synthetic_run(tmp_path, methods=("group_mates", "mates", "random"))
    text = report(arguments | {"settings": settings(texts_gigabytes=0)}).text
    assert "Near-duplicates were not sought, as no texts were read" in text
    header, row, *_ = (tmp_path / "report/comparison.csv").read_text().splitlines()
    found = dict(zip(header.split(","), row.split(","), strict=True))
    assert (found["near_duplicate_share"], found["near_duplicates_sought_in"]) == ("", "0")


def test_what_was_not_looked_at_is_told_as_a_lower_bound():
    rows = [
        {"method": "a", "documents": 30_000, "near_duplicates_sought_in": 10_000},
        {"method": "b", "documents": 20, "near_duplicates_sought_in": 20},
    ]
    told = comparison.unsought(rows)
    assert "10,000 of 30,000 documents of a:" in told and "lower bounds" in told
    assert comparison.unsought(rows[1:]) is None
