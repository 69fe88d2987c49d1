"""The workflow as a user runs it: from text to report."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import checkout
from checkout import lines
from groupmates import __main__ as cli
from groupmates.records import campaign, jobs
from groupmates.report.data import reading
from groupmates.settings.stages import part_of
from in_process import counted_by_rule, planned, snakemake


@pytest.mark.long
@pytest.mark.skipif(
    shutil.which("slurmctld") is not None, reason="tests/slurm compares these bytes"
)
def test_a_run_in_processes_of_its_own_makes_the_same_bytes(finished: Path, tmp_path: Path) -> None:
    """The other tests run the same commands within their own process."""
    folder = checkout.make(tmp_path / "checkout")
    run = checkout.snakemake(folder)
    assert run.returncode == 0, run.stdout[-4000:]
    assert len(checkout.selections(finished)) > 10
    assert checkout.selections(folder) == checkout.selections(finished)
    assert "Nothing to be done" in checkout.snakemake(folder, "-n").stdout


def test_the_dataset_holds_selected_lines_unchanged_and_in_their_order(finished: Path) -> None:
    root = finished / "results/tiny"
    datasets = root / "dataset"
    for method in ("group_mates", "random"):
        for file in range(7):
            name = f"shard-{file:05d}.jsonl.zst"
            selection = root / f"select/{method}/shard-{file // 3:05d}.parquet"
            table = pq.read_table(selection, filters=[("source_file", "=", f"corpus/{name}")])
            rows = table["source_row"].to_pylist()
            assert rows == sorted(rows)
            pool, written = (
                lines(root / "corpus" / name),
                lines(datasets / method / name),
            )
            assert written == [pool[row] for row in rows]
            assert all(json.loads(line)["text"] for line in written)


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
    parts = {part_of(a["stage"]) for [a, *_] in records.values()}
    times = reading.stage_times(reading.records(logs))
    assert parts - {"report"} == {time.stage for time in times}


def test_failed_jobs_are_named_at_the_end_and_by_status_with_the_end_of_their_logs(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkout.copy(finished, tmp_path, {"accept": {"minimum_spearman": 0.9999}})
    run = snakemake(folder)
    assert run.returncode != 0
    monkeypatch.chdir(folder)
    assert cli.main(["status", "results/tiny"]) == 0
    shown = capsys.readouterr().out
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


def test_a_plan_is_printed_and_makes_nothing_stale(finished: Path, tmp_path: Path) -> None:
    folder = checkout.copy(finished, tmp_path)
    main = folder / "results/tiny/.main.json"
    with main.open("a+") as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)  # as by the main process of a run that goes on
        written = [main, folder / "results/tiny/logs" / campaign.NAME]
        before = [path.read_bytes() for path in written]
        shown = checkout.snakemake(folder, "--", "plan")
    assert shown.returncode == 0, shown.stdout[-4000:]
    assert [path.read_bytes() for path in written] == before
    assert "Plan of the run tiny on 2 cores" in shown.stdout
    assert "make calibrate" in shown.stdout
    every = planned(folder, "--forceall")
    by_stage = {name.replace("_", "-"): count for name, count in every.items()}
    assert counted_by_rule(folder / "results/tiny/plan.json") == by_stage
    assert not planned(folder)


def test_a_printed_command_runs_on_a_bare_node(finished: Path, tmp_path: Path) -> None:
    """What `snakemake -n -p` prints needs no activated environment: .venv is enough."""
    folder = checkout.copy(finished, tmp_path)
    printed = snakemake(folder, "-n", "-p", "-R", "take").stdout
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
