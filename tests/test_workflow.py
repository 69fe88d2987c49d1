"""The workflow as a user runs it: from text to report, resumed, and re-run where settings change."""

from __future__ import annotations

import csv
import fcntl
import gzip
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

import checkout
from groupmates.explain import document as asking
from groupmates.records import campaign, jobs
from groupmates.report.data import reading
from groupmates.settings.config import keys

pytestmark = pytest.mark.slow


def lines(path: Path) -> list[bytes]:
    return zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()


def test_the_dataset_holds_selected_lines_unchanged_and_in_their_order(finished: Path) -> None:
    root = finished / "results/tiny"
    for method in ("group_mates", "random"):
        for file in range(7):
            name = f"shard-{file:05d}.jsonl.zst"
            selection = root / f"select/{method}/shard-{file // 3:05d}.parquet"
            table = pq.read_table(selection, filters=[("source_file", "=", name)])
            rows = table["source_row"].to_pylist()
            assert rows == sorted(rows)
            pool, written = lines(root / "corpus" / name), lines(root / "dataset" / method / name)
            assert written == [pool[row] for row in rows]
            assert all(json.loads(line)["text"] for line in written)


def test_the_dataset_loads_with_hugging_face_datasets(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    files = sorted(map(str, (finished / "results/tiny/dataset/group_mates").glob("*.zst")))
    loaded = datasets.load_dataset("json", data_files=files, split="train", cache_dir=str(tmp_path))
    written = [json.loads(line)["text"] for path in files for line in lines(Path(path))]
    assert loaded["text"] == written


def test_both_methods_meet_the_same_budget_of_documents(finished: Path) -> None:
    root = finished / "results/tiny"
    documents = sum(pq.read_metadata(p).num_rows for p in root.glob("score/*.parquet"))
    for method in ("group_mates", "random"):
        rows = [pq.read_metadata(p).num_rows for p in root.glob(f"select/{method}/shard-*")]
        assert sum(rows) == round(documents / 4)


def test_summary_and_report_tell_the_same_difference(finished: Path) -> None:
    root = finished / "results/tiny"
    summary = json.loads((root / "evaluate/summary.json").read_text())
    final = {
        method: [
            pq.read_table(root / f"evaluate/{method}/seed-{seed}.parquet")["loss_nats"][-1].as_py()
            for seed in range(2)
        ]
        for method in ("group_mates", "random")
    }
    mean = sum(final["group_mates"]) / 2 - sum(final["random"]) / 2
    assert summary["comparisons"]["group_mates"]["difference_nats"] == pytest.approx(mean)
    assert f"{abs(mean):.3f}"[:5] in (root / "report.html").read_text()


def test_the_plan_and_the_records_of_a_finished_run_tell_of_every_job(finished: Path) -> None:
    logs = finished / "results/tiny/logs"
    plan, records = campaign.read(logs), jobs.named_records(logs)
    assert plan is not None
    assert plan["state"] == "done"
    assert plan["jobs"].keys() == records.keys()
    flow = list(plan["stages"])
    assert flow == list(dict.fromkeys(job["stage"] for job in plan["jobs"].values()))
    for name, attempts in records.items():
        assert jobs.stage_of(attempts[-1]) == plan["jobs"][name]["stage"]
    assert records["probe_random_00001"][-1]["wildcards"] == {"round": "random", "part": "00001"}
    assert all(
        flow.index(before) < flow.index(stage)
        for stage, needs in plan["stages"].items()
        for before in needs
    )
    assert plan["stages"]["fit_initial"].count("probe_random") == 1
    phases = {name: attempts[-1]["phases"] for name, attempts in records.items()}
    for name in ("centroids", "plan_bootstrap", "probe_random_00000", "score_00000", "base"):
        assert phases[name], name
    assert all(p["done"] == p["total"] > 0 for of_job in phases.values() for p in of_job)
    parts = {reading.PART_OF.get(a["stage"], a["stage"]) for [a, *_] in records.values()}
    times = reading.stage_times(reading.records(logs))
    assert parts - {"report"} == {time.stage for time in times}


def test_failed_jobs_are_named_at_the_end_and_by_status_with_the_end_of_their_logs(
    finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    settings = checkout.merged(checkout.TINY, {"accept": {"minimum_spearman": 0.9999}})
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = checkout.snakemake(folder)
    assert run.returncode != 0
    shown = subprocess.run(
        ["workflow/run", "status", "results/tiny"],
        cwd=folder,
        env={**os.environ, "GROUPMATES_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "snakemake has ended with failed or cancelled jobs" in shown
    table = shown.partition("held up by")[0]
    stages = {line.split()[0]: line.split()[1:] for line in table.splitlines() if line.split()}
    assert stages["probe_random"][:5] == ["2", "·", "·", "·", "2"]
    assert stages["accept_initial"][:5] == ["·", "·", "1", "·", "1"]
    assert stages["probe_bootstrap"][:5] == ["·", "·", "·", "2", "2"]
    for text in (run.stdout, shown):
        end = text[text.index("accept_initial failed") :]
        assert "(attempt 2)" in end.splitlines()[0]
        assert "logs/accept_initial.log:" in end.splitlines()[0]
        assert "to do:" in end
        assert end.count("expected:") == end.count("error in accept")


def test_a_finished_run_has_nothing_left_to_do(finished: Path) -> None:
    assert "Nothing to be done" in checkout.snakemake(finished, "-n").stdout


@pytest.mark.parametrize("format", ["parquet", "open_lm", "megatron"])
def test_another_format_of_the_dataset_is_written_and_nothing_else_done_again(
    format: str, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    changed = {"format": format, "shards_per_job": 2, "open_lm": {"window_tokens": 65}}
    settings = checkout.merged(checkout.TINY, {"materialise": changed})
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    planned = checkout.snakemake(folder, "-n", "--quiet", "rules").stdout
    run = checkout.snakemake(folder)
    assert run.returncode == 0, run.stdout[-4000:]
    jobs_of = dict(re.findall(r"^(\w+) +(\d+)$", planned, re.MULTILINE))
    writing = {"materialise": "14"} if format == "parquet" else {"tokenise": "4"}
    assert jobs_of.items() - {("total", jobs_of["total"])} == {
        *writing.items(),
        ("assemble", "2"),
        ("all", "1"),
    }
    assert "Nothing to be done" in checkout.snakemake(folder, "-n").stdout
    for method in ("group_mates", "random"):
        dataset = folder / "results/tiny/dataset" / method
        card = json.loads(dataset.with_suffix(".json").read_text())
        selected = sum(
            pq.read_metadata(path).num_rows
            for path in (folder / "results/tiny/select" / method).glob("*.parquet")
        )
        assert (card["format"], card["documents"]) == (format, selected)
        names = sorted(str(path.relative_to(dataset)) for path in dataset.rglob("*.*"))
        assert not [name for name in names if name.endswith(".zst")]
        if format == "parquet":
            assert names == [f"shard-{i:05d}.jsonl.zst.parquet" for i in range(7)]
        elif format == "megatron":
            assert names == ["tokens.bin", "tokens.idx"]
        else:
            assert "manifest.jsonl" in names and "part-00001/00000000.tar" in names


@pytest.mark.parametrize(
    ("shards", "change"),
    [
        (1, {"pool": {"files_per_shard": 7}, "score": {"batch_tokens": 1000}}),
        (2, {"pool": {"files_per_shard": 4}, "select": {"partitions": 2}}),
        (7, {"pool": {"files_per_shard": 1}, "score": {"batch_tokens": 100_000}}),
    ],
)
def test_shards_partitions_and_batch_sizes_change_nothing_that_is_selected(
    shards: int, change: dict, finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    settings = checkout.merged(checkout.TINY, change)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = checkout.snakemake(folder, "--until", "materialise")
    assert run.returncode == 0, run.stdout[-4000:]
    here, there = folder / "results/tiny", finished / "results/tiny"
    for method in ("group_mates", "random"):
        tables = sorted(here.glob(f"select/{method}/shard-*.parquet"))
        assert len(tables) == shards
        rows = [pq.read_table(t).drop_columns("source_file").to_pylist() for t in tables]
        whole = sorted(there.glob(f"select/{method}/shard-*.parquet"))
        expected = [pq.read_table(t).drop_columns("source_file").to_pylist() for t in whole]
        places = ("doc_id", "source_row", "n_tokens", "cluster", "rank")
        assert [[r[p] for p in places] for t in rows for r in t] == [
            [r[p] for p in places] for t in expected for r in t
        ]


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs of a dry run by rule."""
    shown = checkout.snakemake(folder, *arguments, "--nolock", "-n", "--quiet", "rules").stdout
    return {rule: int(jobs) for rule, jobs in re.findall(r"^(\w+) +(\d+)$", shown, re.MULTILINE)}


def test_a_file_that_is_added_to_the_pool_is_scored_and_nothing_is_probed_again(
    finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    old = [f"results/tiny/corpus/shard-{i:05d}.jsonl.zst" for i in range(7)]
    settings = checkout.merged(
        checkout.TINY, {"pool": {"paths": old, "files_per_shard": 1}, "sample": {"paths": old}}
    )
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = checkout.snakemake(folder)
    assert run.returncode == 0, run.stdout[-4000:]
    assert not planned(folder)
    rows = [json.dumps({"url": f"new-{i}", "text": f"A new text, number {i}."}) for i in range(20)]
    new = folder / "results/tiny/corpus/shard-00007.jsonl.zst"
    new.write_bytes(zstandard.compress("\n".join(rows).encode()))
    settings["pool"]["paths"] = [*old, str(new.relative_to(folder))]
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    jobs = planned(folder)
    assert (jobs["check"], jobs["score"]) == (1, 1)
    assert not {"sample", "base", "probe", "fit", "reference", "plan_random"} & set(jobs)
    run = checkout.snakemake(folder)
    assert run.returncode == 0, run.stdout[-4000:]
    tables = [pq.read_metadata(p).num_rows for p in folder.glob("results/tiny/score/*.parquet")]
    assert (len(tables), sum(tables)) == (8, 370)


@pytest.mark.parametrize(
    "change",
    [{"probe": {"groups": {"sets": 0}}}, {"select": {"methods": ["random"]}}],
    ids=["no sets", "no method that goes by groups"],
)
def test_sets_are_probed_only_where_they_are_asked_for(change: dict, tmp_path: Path) -> None:
    folder = checkout.make(tmp_path)
    stages = {"plan_groups", "probe_groups", "groups"}
    assert stages <= planned(folder).keys()
    (folder / "settings.yaml").write_text(yaml.safe_dump(checkout.merged(checkout.TINY, change)))
    without = planned(folder)
    assert without["report"] == 1
    assert not stages & without.keys()


def test_a_plan_is_printed_and_makes_nothing_stale(finished: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    main = folder / "results/tiny/.main.json"
    with main.open("a+") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)  # as by the main process of a run that goes on
        written = [main, folder / "results/tiny/logs" / campaign.NAME]
        before = [path.read_bytes() for path in written]
        planned = checkout.snakemake(folder, "--", "plan")
    assert planned.returncode == 0, planned.stdout[-4000:]
    assert [path.read_bytes() for path in written] == before
    assert "Plan of the run tiny on 2 cores" in planned.stdout
    assert "make calibrate" in planned.stdout
    jobs = json.loads((folder / "results/tiny/plan.json").read_text())["stages"]
    shown = checkout.snakemake(folder, "-n", "--forceall", "--quiet", "rules").stdout
    table = dict(re.findall(r"^(\w+) +(\d+)$", shown, re.MULTILINE))
    by_stage = {name.replace("_", "-"): int(count) for name, count in table.items()}
    del by_stage["all"], by_stage["total"]
    assert {name: stage["jobs"] for name, stage in jobs.items()} == by_stage
    assert "Nothing to be done" in checkout.snakemake(folder, "-n").stdout


def test_every_selector_and_a_variant_of_each_run_side_by_side(
    finished: Path, tmp_path: Path
) -> None:
    """From a run of the default methods on: what they share is not done again."""
    folder = shutil.copytree(finished, tmp_path / "copy")
    methods = ["group_mates", "mates", "quality", "semdedup", "oracle_greedy", "quad", "random"]
    change = {
        "methods": [*methods, "early", "best", "words", "strict", "meaning", "sparse", "curved"],
        "variants": {
            "early": {"method": "group_mates", "rounds": "random", "relation": "none"},
            "best": {"method": "mates", "temperature": 0},
            "words": {"method": "quality", "ngrams": 1, "hash_bits": 10},
            "strict": {"method": "semdedup", "threshold": 1.0, "clusters": "influence"},
            "meaning": {"method": "group_mates", "clusters": "semantic"},
            "sparse": {"method": "oracle_greedy", "candidates": 1},
            "curved": {"method": "quad", "hessian": "gauss_newton", "damping": 0.1},
        },
        "partitions": 2,
        "semdedup": {"threshold": 0.9999},
        "oracle_greedy": {"candidates": 3},
        "quad": {"iterations": 2, "arms_per_iteration": 3, "cg_iterations": 2},
        "quality": {"positives": "reference"},
    }
    settings = checkout.merged(
        checkout.TINY, {"select": change, "reference": {"selection_examples": 12}}
    )
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    jobs = planned(folder)
    assert jobs["score_by"] == 2 * jobs["order_quality"] // 2 == 6  # two models, three shards
    assert (jobs["order_group_mates"], jobs["order_semdedup"]) == (6, 4)  # in two partitions
    semantic = ("fit_semantic", "embed", "centroids_semantic", "cluster_semantic")
    assert [jobs[rule] for rule in semantic] == [1, 3, 1, 3]
    assert (jobs["order_mates"], jobs["fit_quality"], jobs["plan_one_step"]) == (2, 2, 1)
    assert (jobs["probe_quad"], jobs["order_quad"]) == (2, 2)
    assert not {"sample", "base", "check"} & set(jobs)
    shown = checkout.snakemake(folder, "--", "plan").stdout
    assert "Plan of the run tiny" in shown, shown[-2000:]
    run = checkout.snakemake(folder)
    assert run.returncode == 0, run.stdout[-4000:]
    assert not planned(folder)
    root = folder / "results/tiny"
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
    settings["select"]["oracle_greedy"]["max_evaluations"] = 999
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    assert not planned(folder)
    everything = checkout.snakemake(folder, "-n", "--forceall", "--quiet", "rules").stdout
    table = dict(re.findall(r"^(\w+) +(\d+)$", everything, re.MULTILINE))
    counted = {name.replace("_", "-"): int(count) for name, count in table.items()}
    counted["score"] += counted.pop("score-by")
    for name in ("centroids", "cluster"):
        counted[name] += counted.pop(f"{name}-semantic")
    del counted["all"], counted["total"]
    planned_jobs = json.loads((root / "plan.json").read_text())["stages"]
    assert {name: stage["jobs"] for name, stage in planned_jobs.items()} == counted
    for method in change["methods"]:
        asked = subprocess.run(
            [
                *(sys.executable, "-m", "groupmates", "explain", "results/tiny"),
                *("shard-00000.jsonl.zst#0", "--method", method),
            ],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder / "workflow")},
            capture_output=True,
            text=True,
            check=False,
        )
        if method == "early":
            assert (asked.returncode, "initial model" in asked.stderr) == (2, True)
        else:
            assert (asked.returncode, asked.stderr) == (0, "")
            assert method in asked.stdout
            told = "of the semantic ones" in asked.stdout
            assert told == (method in ("semdedup", "meaning"))
    texts_of_semantic_clusters_are_explained(folder)


def texts_of_semantic_clusters_are_explained(folder: Path) -> None:
    """A text of the pool comes to its own cluster, beside itself."""
    root = folder / "results/tiny"
    for method in ("semdedup", "meaning"):
        row = pq.read_table(root / f"select/{method}/shard-00000.parquet").to_pylist()[0]
        text = json.loads(lines(root / "corpus" / row["source_file"])[row["source_row"]])["text"]
        found = asking.explain_text(root, text, method, 1)
        assert (found.cluster, found.clusters) == (row["cluster"], "semantic")
        assert found.neighbours[0].similarity == pytest.approx(1, abs=1e-4)


def test_nothing_semantic_is_made_where_no_method_asks_for_it(finished: Path) -> None:
    assert not planned(finished, "--forceall").keys() & {"fit_semantic", "embed"}
    assert not list((finished / "results/tiny").glob("*/semantic"))


def test_a_calibration_measures_every_stage_of_the_run(tmp_path: Path) -> None:
    folder = checkout.make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "groupmates", "calibrate", "--configfile", "settings.yaml"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder / "workflow")},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=1200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    plan = json.loads((folder / "results/tiny/plan.json").read_text())
    assert plan["missing"] == []
    assert [source["name"] for source in plan["sources"]] == ["results/tiny-calibration"]
    for stage in plan["stages"].values():
        assert 0 < stage["seconds"] < 3600
        assert {rate["source"] for rate in stage["rates"].values()} == {"results/tiny-calibration"}


def test_touching_source_files_and_rules_re_runs_nothing(finished: Path) -> None:
    for path in [*finished.rglob("*.py"), *finished.rglob("*.smk"), finished / "Snakefile"]:
        path.touch()
    assert "Nothing to be done" in checkout.snakemake(finished, "-n").stdout


def test_a_printed_command_runs_on_a_bare_node(finished: Path, tmp_path: Path) -> None:
    """What `snakemake -n -p` prints needs no activated environment: .venv is enough."""
    folder = shutil.copytree(finished, tmp_path / "copy")
    printed = checkout.snakemake(folder, "-n", "-p", "-R", "take").stdout
    found = (re.search(r"workflow/run take .*", line) for line in printed.splitlines())
    take = next(match.group() for match in found if match)
    target = folder / "results/tiny/select/group_mates/shard-00000.parquet"
    before = target.read_bytes()
    target.unlink()
    environment = {"PATH": "/usr/bin:/bin"}
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / ".venv/bin/python").chmod(0o755)
    subprocess.run(
        ["bash", "-c", take.replace("random", "group_mates")],
        cwd=folder,
        env=environment,
        check=True,
    )
    assert target.read_bytes() == before


ENDINGS = {
    "SIGINT": lambda run: os.kill(run.pid, signal.SIGINT),
    "SIGTERM": lambda run: os.kill(run.pid, signal.SIGTERM),
    # Its jobs live on without it.
    "SIGKILL of the main process": lambda run: os.kill(run.pid, signal.SIGKILL),
    "SIGKILL of everything": lambda run: os.killpg(run.pid, signal.SIGKILL),
}


@pytest.mark.parametrize("seed", range(int(os.environ.get("GROUPMATES_KILL_SEEDS", 2))))
def test_a_run_killed_at_random_moments_ends_with_the_same_selection(
    seed: int, finished: Path, tmp_path: Path
) -> None:
    """Four times each, in every way; what lives on meets the run that is started again."""
    chance = random.Random(seed)
    folder = checkout.make(tmp_path)
    # The built-in corpus is an input here: installed packages may change between two runs.
    shutil.copytree(finished / "results/tiny/corpus", folder / "results/tiny/corpus")
    told = []
    for ending in chance.sample(sorted(ENDINGS), len(ENDINGS)):
        wait = chance.uniform(2, 20)
        told.append(f"{ending} after {wait:.1f} s")
        with (folder / "killed.log").open("a") as log:
            run = subprocess.Popen(
                checkout.command(), cwd=folder, stdout=log, stderr=log, start_new_session=True
            )
            try:
                run.wait(wait)
            except subprocess.TimeoutExpired:
                ENDINGS[ending](run)
                run.wait(120)
        checkout.snakemake(folder, "--unlock")
    again = checkout.snakemake(folder)
    assert again.returncode == 0, f"{told} {again.stdout[-4000:]}"
    assert checkout.selections(folder) == checkout.selections(finished), told
    left = [*folder.glob("results/**/.*.partial"), *folder.glob("results/**/.*.kept")]
    assert not left, told


TWO = ("--set-resources", "fit:processes_per_node=2", "base:processes_per_node=2")


def test_the_number_of_processes_makes_nothing_stale(finished: Path) -> None:
    assert "Nothing to be done" in checkout.snakemake(finished, "-n", *TWO).stdout


def test_a_rule_trains_in_as_many_processes_as_the_profile_says(
    finished: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished, tmp_path / "copy")
    root = folder / "results/tiny"
    metrics = json.loads((root / "fit/initial/metrics.json").read_text())
    shutil.rmtree(root / "fit/initial")
    run = checkout.snakemake(folder, *TWO, "--", "results/tiny/fit/initial")
    assert run.returncode == 0, run.stdout[-4000:]
    assert "submitted local job" in (root / "logs/fit_initial.log").read_text()
    assert len(list((root / "logs/fit_initial.launch").glob("*_result.pkl"))) == 2
    found = json.loads((root / "fit/initial/metrics.json").read_text())
    assert found["labels"] == metrics["labels"]
    assert (
        "Nothing to be done"
        in checkout.snakemake(folder, "-n", "--", "results/tiny/fit/initial").stdout
    )


DATA = Path(os.environ.get("GROUPMATES_DATA", checkout.REPOSITORY / "data"))


@pytest.mark.skipif(not DATA.exists(), reason=f"no mixed pool in {DATA}: set GROUPMATES_DATA")
def test_a_mixed_pool_with_ids_and_two_reference_files_runs_to_its_report(tmp_path: Path) -> None:
    change = yaml.safe_load(
        (checkout.REPOSITORY / "workflow/configs/mixed-lambada.yaml").read_text()
    )
    settings = checkout.merged(
        checkout.TINY, {name: change[name] for name in ("pool", "reference")}
    )
    settings["pool"] |= {"paths": ["data/pool/shard_0000000[0-1].jsonl.zst"]}
    settings["reference"]["split"] = checkout.TINY["reference"]["split"] | {"loss_on": "all"}
    folder = checkout.make(tmp_path / "checkout", settings)
    (folder / "data").symlink_to(DATA.resolve())
    run = checkout.snakemake(folder)
    assert run.returncode == 0, run.stdout[-4000:]
    root = folder / "results/tiny"
    pool = {
        json.loads(line)["id"]
        for f in (DATA / "pool").glob("shard_0000000[01]*")
        for line in lines(f)
    }
    for method in ("group_mates", "random"):
        dataset = [line for f in root.glob(f"dataset/{method}/*.zst") for line in lines(f)]
        picked = [json.loads(line)["id"] for line in dataset]
        assert len(picked) == len(set(picked)) == round(len(pool) / 4)
        assert set(picked) <= pool
    assert (root / "report.html").stat().st_size > 10_000


def test_a_pool_of_every_kind_without_its_bad_records_runs_to_its_datasets(tmp_path: Path) -> None:
    """Lines, gzip, nested Parquet, a saved dataset and a URL; in shards by size."""
    pool = tmp_path / "pool"
    pool.mkdir()
    chance = random.Random(0)
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi") for b in ("na", "re", "so", "tu")]
    rows = [
        {"content": {"text": " ".join(chance.choices(words, k=30))}, "n": i} for i in range(200)
    ]
    parts = [[json.dumps(row) for row in rows[first : first + 40]] for first in range(0, 200, 40)]
    parts[0][3], parts[1][5] = "{broken", json.dumps({"content": {"text": " "}})
    (pool / "a.jsonl").write_text("\n".join(parts[0]))
    (pool / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(parts[1]).encode()))
    pq.write_table(pa.Table.from_pylist(rows[80:120]), pool / "c.parquet")
    datasets.Dataset.from_list(rows[120:160]).save_to_disk(pool / "d", num_shards=2)
    (tmp_path / "far.jsonl.zst").write_bytes(zstandard.compress("\n".join(parts[4]).encode()))
    change = {
        "paths": ["pool/*", f"file://{tmp_path}/far.jsonl.zst"],
        "columns": {"text": "content.text", "source": None},
        "files_per_shard": None,
        "shard_mb": 0.02,
        "bad_records": "skip",
        "max_bad_share": 0.1,
    }
    folder = checkout.make(tmp_path, {**checkout.TINY, "pool": change})
    run = checkout.snakemake(folder, "--until", "assemble")
    assert run.returncode == 0, run.stdout[-4000:]
    root = folder / "results/tiny"
    rejects = pq.read_table(root / "check/rejects.parquet").to_pylist()
    assert [(r["source_file"], r["source_row"], r["reason"]) for r in rejects] == [
        ("a.jsonl", 3, "not JSON"),
        ("b.jsonl.gz", 5, "empty text"),
    ]
    shards = [pq.read_table(p) for p in sorted(root.glob("score/*.parquet"))]
    assert 1 < len(shards) < 6
    assert sum(map(len, shards)) == 198
    dataset = root / "dataset/random"
    kept = [json.loads(line) for line in (dataset / "a.jsonl").read_text().splitlines()]
    kept += map(json.loads, gzip.decompress((dataset / "b.jsonl.gz").read_bytes()).splitlines())
    kept += pq.read_table(dataset / "c.parquet").to_pylist()
    for file in sorted(dataset.glob("d/*.arrow")):
        kept += datasets.Dataset.from_file(str(file)).to_list()
    (far,) = dataset.glob("file/**/far.jsonl.zst")
    kept += map(json.loads, lines(far))
    assert kept == [rows[row["n"]] for row in kept]
    assert len(kept) == round(198 / 4)
    assert planned(folder, "--until", "assemble") == {"total": 0}


def test_bad_input_ends_with_a_message_that_says_what_to_do(tmp_path: Path) -> None:
    folder = checkout.make(
        tmp_path,
        {**checkout.TINY, "pool": {"paths": ["pool/*.jsonl"]}},
    )
    (folder / "pool").mkdir()
    (folder / "pool/a.jsonl").write_text('{"text": "one"}\n{"texx": "two"}\n')
    run = checkout.snakemake(folder, "--until", "sample")
    assert run.returncode != 0
    for part in ("expected:", "found:", "pool/a.jsonl", "line 2", "to do:"):
        assert part in run.stdout
    assert "Traceback" not in run.stdout
    assert not list(folder.glob("results/tiny/sample/*"))


def test_an_unknown_setting_is_refused_before_anything_runs(tmp_path: Path) -> None:
    folder = checkout.make(tmp_path, {**checkout.TINY, "prob": {"shards": 3}})
    run = checkout.snakemake(folder, "-n")
    assert run.returncode != 0
    assert "prob: no such setting; the nearest is probe" in run.stdout


# What a changed setting re-runs: "after X" stands for X and all rules that follow from it.
REPORT = {"report"}
SUMMARY = {"summarise"} | REPORT
EVALUATE = {"evaluate"} | SUMMARY
DATASET = {"materialise", "assemble"}
TAKE = {"take"} | DATASET | EVALUATE
CLUSTER = {"centroids", "cluster", "order_group_mates"} | TAKE
SEMANTIC = {"fit_semantic", "embed", "centroids_semantic", "cluster_semantic"}
SCORE = {"score", "order_random"} | CLUSTER
GROUPS = {"plan_groups", "probe_groups", "groups"} | REPORT
FIT = {"fit", "accept", "plan_bootstrap", "probe"} | GROUPS | SCORE
PROBE = FIT
BASE = {"base"} | PROBE
REFERENCE = {"reference"} | PROBE
SAMPLE = {"sample", "reference", "plan_random"} | BASE
CHECK = {"check", "check_pool"}
CORPUS = {"corpus"} | CHECK | SAMPLE
BOOTSTRAP = {"plan_bootstrap", "probe", "fit", "accept"} | GROUPS | SCORE

AFFECTS: dict[str, tuple[object, set[str]]] = {
    "seed": (1, CORPUS),
    "corpus.documents": (300, CORPUS),
    "corpus.files": (2, CORPUS),
    "pool.files_per_shard": (2, CHECK | SCORE),
    "pool.bad_records": ("skip", CHECK | SAMPLE),
    "pool.max_bad_share": (0.5, {"check_pool"} | CLUSTER),
    "pool.columns.text": ("url", CHECK | SAMPLE),
    "pool.columns.id": ("url", CHECK | SAMPLE),
    "pool.columns.source": (None, SCORE),
    "reference.split.loss_on": ("all", REFERENCE),
    "reference.split.evaluation_share": (0.4, REFERENCE),
    "reference.selection_examples": (7, PROBE),
    "reference.evaluation_examples": (9, EVALUATE),
    "reference.split.max_tokens": (20, REFERENCE),
    "sample.probe_documents": (50, SAMPLE),
    "sample.training_documents": (50, SAMPLE),
    "sample.sequence_length": (30, SAMPLE),
    "sample.tokenizer": ("some/folder", SAMPLE),
    "sample.vocabulary_size": (420, SAMPLE),
    "base.checkpoint": ("some/folder", SAMPLE),
    "base.architecture.family": ("gpt_neox", BASE),
    "base.architecture.hidden_size": (48, BASE),
    "base.architecture.layers": (2, BASE),
    "base.architecture.heads": (4, BASE),
    "base.optimizer.learning_rate": (0.002, BASE),
    "base.optimizer.beta1": (0.8, BASE),
    "base.optimizer.beta2": (0.99, BASE),
    "base.optimizer.epsilon": (1e-7, BASE),
    "base.optimizer.weight_decay": (0.1, BASE),
    "base.optimizer.clip_norm": (2.0, BASE),
    "base.optimizer.z_loss": (0.0, BASE),
    "base.training_steps": (7, BASE),
    "base.optimizer_warmup_steps": (7, BASE),
    "base.batch_sequences": (5, BASE),
    "base.learning_rate_warmup_steps": (3, BASE),
    "probe.shards": (3, PROBE),
    "probe.rollout_length": (4, {"plan_random"} | PROBE),
    "probe.random.rollouts": (17, {"plan_random"} | PROBE),
    "probe.bootstrap.rollouts": (8, BOOTSTRAP),
    "probe.bootstrap.beam_width": (9, BOOTSTRAP),
    "probe.bootstrap.expansion": (4, BOOTSTRAP),
    "probe.bootstrap.max_appearances": (5, BOOTSTRAP),
    "probe.groups.sets": (5, GROUPS),
    "probe.groups.sizes": ([2], GROUPS),
    "fit.encoder.name": ("some/encoder", FIT),
    "fit.encoder.embedding_size": (8, FIT),
    "fit.encoder.chunk_tokens": (256, FIT),
    "fit.encoder.chunks": (2, FIT),
    "fit.relation.kernel": ("mean", FIT),
    "fit.relation.sharpness": (8.0, FIT),
    "fit.standardise": ("global", FIT),
    "fit.validation_rollouts": (2, FIT),
    "fit.heldout_rollouts": (5, FIT),
    "fit.training.epochs": (3, FIT),
    "fit.training.batch_rollouts": (4, FIT),
    "fit.training.learning_rate": (0.01, FIT),
    "fit.training.warmup_steps": (3, FIT),
    "fit.training.weight_decay": (0.1, FIT),
    "fit.training.dropout": (0.2, FIT),
    "accept.minimum_spearman": (-0.9, {"accept"} | BOOTSTRAP),
    "score.batch_tokens": (4096, SCORE),
    "semantic.embedding_size": (8, set()),  # of no method that runs by default
    "cluster.clusters": (5, CLUSTER),
    "cluster.target_size": (50, CLUSTER),
    "cluster.iterations": (6, CLUSTER),
    "cluster.sample_per_cluster": (100, CLUSTER),
    "select.methods": (["random"], {"summarise", "report"}),
    "select.budget.ratio": (0.3, {"order_group_mates"} | TAKE),
    "select.budget.tokens": (9000, {"order_group_mates"} | TAKE),
    "select.partitions": (2, {"order_group_mates"} | TAKE),
    "select.group_mates.clusters": ("semantic", SEMANTIC | {"order_group_mates"} | TAKE),
    "select.group_mates.quota": ("proportional", {"order_group_mates"} | TAKE),
    "select.group_mates.sign": ("ceiling", {"order_group_mates"} | TAKE),
    "select.group_mates.relation": ("none", {"order_group_mates"} | TAKE),
    "select.group_mates.sharpness": (64.0, {"order_group_mates", "groups"} | TAKE),
    "select.group_mates.rounds": ("random", {"score_by", "order_group_mates"} | TAKE),
    # Of selectors that do not run by default.
    "select.variants": ({"best": {"method": "mates", "temperature": 0}}, set()),
    "select.mates.temperature": (0.0, set()),
    "select.quality.positives": ("reference", set()),
    "select.quality.ngrams": (1, set()),
    "select.quality.hash_bits": (12, set()),
    "select.quality.penalty": (2.0, set()),
    "select.semdedup.clusters": ("influence", set()),
    "select.semdedup.threshold": (0.9, set()),
    "select.oracle_greedy.candidates": (3, set()),
    "select.oracle_greedy.max_evaluations": (30, set()),
    "select.quad.iterations": (3, set()),
    "select.quad.arms_per_iteration": (3, set()),
    "select.quad.documents_per_arm": (3, set()),
    "select.quad.threshold": (-0.1, set()),
    "select.quad.exploration": (0.1, set()),
    "select.quad.neighbour_distance": (0.5, set()),
    "select.quad.hessian": ("gauss_newton", set()),
    "select.quad.damping": (0.1, set()),
    "select.quad.cg_iterations": (3, set()),
    "select.quad.cg_tolerance": (0.1, set()),
    "materialise.format": ("parquet", DATASET),
    # Of the tokenised formats alone.
    "materialise.tokenizer": ("some/folder", set()),
    "materialise.shards_per_job": (2, set()),
    "materialise.open_lm.window_tokens": (17, set()),
    "materialise.open_lm.windows_per_shard": (5, set()),
    "evaluate.seeds": (3, EVALUATE),
    "evaluate.training.tokens": (2048, EVALUATE),
    "evaluate.training.batch_sequences": (5, EVALUATE),
    "evaluate.training.learning_rate": (0.002, EVALUATE),
    "evaluate.training.learning_rate_warmup_steps": (2, EVALUATE),
    "evaluate.training.points": (4, EVALUATE),
    "report.map_points": (100, {"report"}),
    "report.texts_gigabytes": (0.5, {"report"}),
    # The plan is no part of a run.
    "plan.gpus": (2, set()),
    "plan.cores": (3, set()),
    "plan.rates": (["some/file.json"], set()),
    "plan.pool.documents": (7, set()),
    "plan.pool.tokens_per_document": (7.0, set()),
    "plan.pool.text_bytes_per_document": (7.0, set()),
    "plan.pool.file_bytes_per_document": (7.0, set()),
    "plan.reference_tokens": (7.0, set()),
    "plan.checkpoint": ({"hidden_size": 8, "layers": 1, "vocabulary_size": 300}, set()),
    "plan.encoder": ({"hidden_size": 8, "layers": 1, "vocabulary_size": 300}, set()),
    "plan.pretraining.gpu_hours": (3.0, set()),
    "plan.pretraining.tokens": (1000, set()),
}
# These name files or the run itself: a change is another set of inputs or another folder. Those of
# the corpus, which the table's run reads, cannot be dealt out by size.
OTHER_INPUTS = {
    "run",
    "pool.paths",
    "pool.shard_mb",
    "sample.paths",
    "reference.paths",
    "reference.evaluation_paths",
}
# A pair of which exactly one is set.
PAIRED = {
    "cluster.clusters": {"target_size": None},
    "select.budget.tokens": {"ratio": None},
}


def test_the_table_lists_every_setting() -> None:
    assert set(AFFECTS) | OTHER_INPUTS == keys()


# Every setting under profiles/slurm; under profiles/local, which has the same triggers (test_slurm.py
# compares them), one of each section.
SECTIONS = {key.split(".")[0]: key for key in AFFECTS}


@pytest.mark.parametrize(
    ("profile", "key"),
    [*(("slurm", key) for key in AFFECTS), *(("local", key) for key in SECTIONS.values())],
)
def test_a_changed_setting_re_runs_exactly_what_depends_on_it(
    profile: str, key: str, finished: Path, tmp_path: Path
) -> None:
    value, rules = AFFECTS[key]
    *sections, leaf = key.split(".")
    change: dict = {leaf: value, **PAIRED.get(key, {})}
    for section in reversed(sections):
        change = {section: change}
    (tmp_path / "change.yaml").write_text(yaml.safe_dump(change))
    arguments = (str(tmp_path / "change.yaml"), "--nolock", "-n", "--quiet", "rules")
    shown = checkout.snakemake(finished, *arguments, profile=profile).stdout
    table = re.findall(r"^(\w+) +\d+$", shown, re.MULTILINE)
    assert set(table) - {"total", "all"} == rules, shown[-3000:]


def test_what_semantic_clusters_depend_on_makes_them_anew(finished: Path, tmp_path: Path) -> None:
    """Of a run that has them: not the influence model, but whatever changes an embedding."""
    folder = shutil.copytree(finished, tmp_path / "copy")
    ours = {"select": {"methods": ["semdedup", "random"]}}
    settings = checkout.merged(checkout.TINY, ours)
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    run = checkout.snakemake(folder, "--until", "take")
    assert run.returncode == 0, run.stdout[-4000:]
    order = {"order_semdedup", "take"}
    for change, rules in (
        ({"semantic": {"embedding_size": 8}}, SEMANTIC | order),
        ({"cluster": {"iterations": 6}}, SEMANTIC - {"fit_semantic", "embed"} | order),
        ({"score": {"batch_tokens": 4096}}, SEMANTIC - {"fit_semantic"} | order),
        ({"select": {"semdedup": {"threshold": 0.9}}}, order),
        ({"select": {"semdedup": {"clusters": "influence"}}}, order),
        ({"fit": {"encoder": {"embedding_size": 8}}}, {"order_semdedup", "take"}),
    ):
        (folder / "settings.yaml").write_text(yaml.safe_dump(checkout.merged(settings, change)))
        jobs = set(planned(folder, "--until", "take"))
        assert jobs & (SEMANTIC | order) == rules, change
