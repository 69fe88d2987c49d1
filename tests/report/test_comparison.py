"""The methods side by side: what each is said to cost, and how much its documents repeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_report import MADE, report, settings, synthetic_run

from groupmates import formatting
from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.store import read_table, write_table
from groupmates.pool.listing import PoolFile
from groupmates.report import comparison
from groupmates.report.data.repeats import repeats
from groupmates.settings.config import PoolColumns

PLAIN = PoolColumns(text="text", id="id", source=None)
ALIKE = "the quick brown fox jumps over the lazy dog and then it rests a while"

# Every benchmark of a run with all kinds of methods, each with a power of two as its seconds.
JOBS = [
    *("check/00000", "check/00001", "check/pool", "check/oracle_greedy", "sample"),
    *("sample/reference", "base", "probe/plan_random", "probe/random_00000"),
    *("probe/plan_bootstrap", "probe/bootstrap_00000", "probe/plan_one_step"),
    *("probe/one_step_00000", "fit/initial", "fit/accept_initial", "fit/final"),
    *("fit/accept_final", "fit/one_step", "fit/quality", "score/00000", "score/initial_00000"),
    *("score/one_step_00000", "cluster/centroids", "cluster/00000", "select/random"),
    *("select/group_mates_00000", "select/ours_00000", "select/mates_00000"),
    *("select/mates_2_00000", "select/quality_00000", "select/quality_00001"),
    *("select/semdedup_00000", "select/oracle_greedy_00000", "select/take_random"),
    *("select/take_group_mates", "select/take_ours", "select/take_mates"),
    *("select/take_quality", "select/take_semdedup", "select/take_oracle_greedy"),
    *("evaluate/random_0", "evaluate/random_1", "evaluate/random_2_0", "evaluate/summarise"),
    *("score/semantic", "score/semantic_00000", "cluster/semantic", "cluster/semantic_00000"),
    *("probe/quad_quad", "probe/quad_quad_2", "select/quad_00000", "select/take_quad"),
]
CHECKS = {"check/00000", "check/00001", "check/pool"}
POOL = CHECKS | {"sample", "sample/reference"}
RANDOM_ROUND = {"probe/plan_random", "probe/random_00000", "fit/initial", "fit/accept_initial"}
CLUSTERS = {"cluster/centroids", "cluster/00000"}
SEMANTIC = {
    *("score/semantic", "score/semantic_00000", "cluster/semantic", "cluster/semantic_00000")
}
BOTH_ROUNDS = RANDOM_ROUND | {
    *("probe/plan_bootstrap", "probe/bootstrap_00000", "fit/final", "fit/accept_final"),
    "score/00000",
}
ONE_STEP = {"probe/plan_one_step", "probe/one_step_00000", "fit/one_step", "score/one_step_00000"}


@pytest.fixture
def benchmarks(tmp_path) -> Path:
    for number, job in enumerate(JOBS):
        path = tmp_path / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\th:m:s\n{2**number}\t0:00:01\n")
    return tmp_path


def jobs_in(seconds: float) -> set[str]:
    """The jobs whose powers of two add up to the seconds."""
    return {job for number, job in enumerate(JOBS) if int(seconds) >> number & 1}


@pytest.mark.parametrize(
    ("method", "selector", "by_initial", "clusters", "shared"),
    [
        ("random", "random", False, "influence", CHECKS),
        ("group_mates", "group_mates", False, "influence", POOL | BOTH_ROUNDS | CLUSTERS),
        ("group_mates", "group_mates", False, "semantic", POOL | BOTH_ROUNDS | SEMANTIC),
        (
            *("ours", "group_mates", True, "influence"),
            POOL | RANDOM_ROUND | CLUSTERS | {"score/initial_00000"},
        ),
        (
            *("ours", "group_mates", True, "semantic"),
            POOL | RANDOM_ROUND | SEMANTIC | {"score/initial_00000"},
        ),
        ("mates", "mates", False, "influence", POOL | ONE_STEP),
        (
            *("quality", "quality", False, "influence"),
            POOL | {"fit/quality", "select/quality_00001"},
        ),
        ("semdedup", "semdedup", False, "influence", POOL | BOTH_ROUNDS | CLUSTERS),
        ("semdedup", "semdedup", False, "semantic", POOL | SEMANTIC),
        (*("oracle_greedy", "oracle_greedy", False, "influence"), POOL | {"check/oracle_greedy"}),
        ("quad", "quad", False, "influence", POOL | BOTH_ROUNDS | CLUSTERS | {"probe/quad_quad"}),
    ],
)
def test_a_method_is_charged_every_job_that_it_needs_and_no_other(
    benchmarks, method, selector, by_initial, clusters, shared
):
    order = "select/random" if method == "random" else f"select/{method}_00000"
    assert len(JOBS) < 53  # their sum is exact
    seconds = comparison.selection_seconds(benchmarks, method, selector, by_initial, clusters)
    assert jobs_in(seconds) == shared | {order, f"select/take_{method}"}


def test_randoms_training_is_the_base_model_and_the_mean_over_seeds(benchmarks):
    at = {job: 2**number for number, job in enumerate(JOBS)}
    found = comparison.training_seconds(benchmarks, "random", seeds=2)
    assert found == at["base"] + (at["evaluate/random_0"] + at["evaluate/random_1"]) / 2
    assert comparison.training_seconds(benchmarks, "quality", seeds=2) is None


def test_selection_is_told_as_a_multiple_of_randoms_training(tmp_path):
    arguments = synthetic_run(tmp_path, methods=("group_mates", "random"), benchmarks=False)
    for job, seconds in {
        **{"check/00000": 1, "base": 10, "select/group_mates_00000": 29},
        **{f"evaluate/random_{seed}": 2 for seed in range(3)},
    }.items():
        path = arguments["benchmarks"] / f"{job}.tsv"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"s\n{seconds}\n")
    summary = json.loads(arguments["summary"].read_text())
    best, random = comparison.table(summary, settings(), arguments["benchmarks"])
    assert (best["selection_seconds"], best["selection_per_random_training"]) == (30, 2.5)
    assert random["selection_per_random_training"] == pytest.approx(1 / 12)
    assert [formatting.times(r["selection_per_random_training"]) for r in (best, random)] == [
        "2.5×",
        "0.08×",
    ]


def selection(folder: Path, method: str, shard: int, places: list[tuple[str, int]]) -> Path:
    path = folder / f"select/{method}/shard-{shard:05}.parquet"
    columns: dict[str, Any] = {name: [0] * len(places) for name in ARTEFACTS["select"].columns}
    columns |= {"source_file": [f for f, _ in places], "source_row": [r for _, r in places]}
    columns["doc_id"] = [f"{f}-{r}" for f, r in places]
    write_table(path, "select", MADE, columns)
    return path


def pool_of(folder: Path, texts: dict[str, list[str]]) -> list[PoolFile]:
    for name, rows in texts.items():
        lines = [json.dumps({"id": f"{name}-{i}", "text": t}) + "\n" for i, t in enumerate(rows)]
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
