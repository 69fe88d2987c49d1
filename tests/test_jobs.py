"""The record beside a job's log: who, how far, how it ended; and one process at a time."""

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch

import waiting
from attempts import attempt
from groupmates import progress, run_stage
from groupmates.records import jobs


@pytest.fixture(autouse=True)
def no_phases(monkeypatch):
    monkeypatch.setattr(progress, "STARTED", [])


def test_a_record_tells_how_far_a_job_is_and_how_it_ended(tmp_path):
    record = jobs.Record(tmp_path / "probe_0.json", "probe")
    work = progress.Progress("probe 1/2", 10, "steps", resumed=4)
    work.advance(2)
    record.beat()
    (running,) = jobs.read_record(record.path)
    assert (running["state"], running["ended"]) == ("running", None)
    assert (running["stage"], running["job"], running["pid"]) == ("probe", "probe_0", os.getpid())
    assert (running["rule"], running["wildcards"]) == ("probe", {})
    (phase,) = running["phases"]
    assert (phase["done"], phase["resumed"], phase["total"]) == (6, 4, 10)
    record.end("failed", "no luck")
    (ended,) = jobs.read_record(record.path)
    assert (ended["state"], ended["error"]) == ("failed", "no luck")
    assert ended["ended"] >= ended["started"]
    assert ended["peak_rss_bytes"] > 10e6


def test_an_attempt_that_nobody_ended_counts_as_killed_when_last_heard_of(tmp_path):
    path = tmp_path / "x.json"
    first = jobs.Record(path, "score")
    first._over.set()
    first._thread.join()
    heard = jobs.read_record(path)[0]["heard"]
    second = jobs.Record(path, "score")
    second.end("done")
    states = [(a["state"], a["ended"]) for a in jobs.read_record(path)]
    assert states[0] == ("killed", heard)
    assert states[1][0] == "done"


def test_a_damaged_record_is_no_record(tmp_path):
    (tmp_path / "x.json").write_text("{")
    assert jobs.read_record(tmp_path / "x.json") == []
    assert jobs.read_records(tmp_path) == []


def test_a_second_process_at_one_job_waits_for_the_first(tmp_path):
    log, told = tmp_path / "logs/a.log", tmp_path / "told"
    code = f"""
from pathlib import Path
from types import SimpleNamespace
from groupmates.records import jobs
with jobs.alone(Path({str(log)!r})):
    Path({str(told)!r}).write_text("in")
"""
    with jobs.alone(log):
        log.unlink()  # as snakemake does before it starts a job
        second = subprocess.Popen(
            [sys.executable, "-c", code],
            env=waiting.environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert "another process is at this very job" in second.stderr.readline()
        time.sleep(0.2)
        assert not told.exists()
    assert waiting.ended(second) == 0
    assert told.read_text() == "in"
    assert log.read_text().count("--- ") == 2, "what the first one wrote is still there"


def test_a_requeued_job_that_has_ended_well_meanwhile_is_not_repeated(tmp_path, monkeypatch):
    log = tmp_path / "probe_0.log"
    command = [sys.executable, "-m", "groupmates", "corpus", "--log", str(log)]
    environment = waiting.environment(SLURM_JOB_ID="7")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with jobs.alone(log):
        record = jobs.Record(log.with_suffix(".json"), "corpus")
        second = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        assert second.stderr is not None
        assert "slurm job 7" in second.stderr.readline()
        record.end("done")
    assert "has finished it" in second.communicate()[1]
    assert second.returncode == 0
    assert len(jobs.read_record(log.with_suffix(".json"))) == 1
    monkeypatch.setenv("SLURM_JOB_ID", "8")
    assert not jobs.was_finished(log.with_suffix(".json")), "another job has other settings, maybe"


def test_a_full_disk_is_told_with_what_to_do(tmp_path, capsys):
    def full():
        raise OSError(28, "No space left on device", "results/x.parquet")

    record = jobs.Record(tmp_path / "x.json", "score")
    assert run_stage.run("score", full, {}, record) == 2
    shown = capsys.readouterr().err
    assert "a file system that is full" in shown
    assert "results/x.parquet" in shown
    assert "free some space and run snakemake again" in shown
    assert jobs.read_record(tmp_path / "x.json")[0]["state"] == "failed"


@pytest.mark.parametrize(
    ("error", "expected", "todo"),
    [
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure"),
            "GPU that works",
            "again",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "memory for this job", "sharding: fsdp"),
    ],
)
def test_a_gpu_that_fails_is_told_with_its_node(
    tmp_path, capsys, monkeypatch, error, expected, todo
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    def fails():
        raise error

    record = jobs.Record(tmp_path / "x.json", "base")
    assert run_stage.run("base", fails, {}, record) == 2
    shown = capsys.readouterr().err
    for part in (expected, str(error), todo, "CUDA_VISIBLE_DEVICES 3"):
        assert part in shown
    assert "Traceback" not in shown


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(1, "no")])
def test_a_folder_that_one_may_not_write_to_is_told_with_its_name(tmp_path, capsys, error):
    def refused():
        error.filename = "results/x/fit"
        raise error

    record = jobs.Record(tmp_path / "x.json", "fit")
    assert run_stage.run("fit", refused, {}, record) == 2
    shown = capsys.readouterr().err
    for part in ("does not let you write", "results/x/fit", "get the right to write there"):
        assert part in shown


@pytest.mark.parametrize(
    ("rule", "wildcards", "stage"),
    [
        ("probe", {"round": "random", "part": "00003"}, "probe_random"),
        ("evaluate", {"method": "group_mates", "seed": "0"}, "evaluate_group_mates"),
        ("take", {"method": "best_1"}, "take_best_1"),
        ("take", {"method": "best_2"}, "take_best_2"),
        ("materialise", {"method": "random", "file": "a/3"}, "materialise_random"),
        ("order_mates", {"method": "mates", "partition": "00000"}, "order_mates"),
        ("base", {}, "base"),
        ("fit", {"line": "stages/2/best_1/", "model": "final"}, "fit_final_best_1_stage_2"),
        ("take", {"line": "stages/2/best_1/", "method": "best_1"}, "take_best_1_stage_2"),
    ],
)
def test_jobs_that_differ_in_number_or_file_alone_are_of_one_stage(rule, wildcards, stage):
    assert jobs.stage_name(rule, wildcards) == stage


def test_a_record_tells_which_rule_and_wildcards_its_job_is_of(tmp_path):
    words = ["score_by", "model=initial", "file=a=b c"]
    jobs.Record(tmp_path / "x.json", "score", words).end("done")
    (attempt,) = jobs.read_record(tmp_path / "x.json")
    assert (attempt["stage"], attempt["rule"]) == ("score", "score_by")
    assert attempt["wildcards"] == {"model": "initial", "file": "a=b c"}
    assert jobs.stage_of(attempt) == "score_by_initial"
    del attempt["rule"], attempt["wildcards"]
    assert jobs.stage_of(attempt) == "score", "an earlier version's record"


def spell(state, seconds, resumed=0):
    return attempt(state, 0, seconds, phases=[{"resumed": resumed}])


def test_a_finished_job_took_what_its_outputs_come_from():
    assert jobs.seconds([spell("killed", 60), spell("done", 30, resumed=5)]) == 90
    assert jobs.seconds([spell("killed", 60), spell("done", 70)]) == 70
    before = [spell("done", 500), spell("failed", 7)]
    assert jobs.seconds([*before, spell("killed", 60), spell("done", 30, resumed=5)]) == 97
    assert jobs.seconds([spell("done", 70), spell("failed", 7)]) is None
    assert jobs.seconds([]) is None


def test_a_record_of_a_log_in_a_folder_is_named_by_its_path(tmp_path):
    (tmp_path / "materialise_random").mkdir()
    jobs.Record(tmp_path / "materialise_random/a.jsonl.zst.json", "materialise").end("done")
    assert list(jobs.named_records(tmp_path)) == ["materialise_random/a.jsonl.zst"]


class Cuda:
    """torch.cuda of a process that has used a GPU; `samples` are read one after the other."""

    def __init__(self, samples, begun=True):
        self._samples, self._begun = iter(samples), begun

    def is_available(self):
        return True

    def is_initialized(self):
        return self._begun

    def get_device_name(self):
        return "Fake H100"

    def max_memory_reserved(self):
        return 41 * 10**9

    def utilization(self):
        sample = next(self._samples)
        if isinstance(sample, Exception):
            raise sample
        return sample


def metered(monkeypatch, cuda, samples=3):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda, get_num_threads=lambda: 2))
    meter = jobs.GpuMeter()
    for _ in range(samples):
        meter.sample()
    return meter.name, meter.peak_bytes(), meter.utilisation()


def test_a_gpu_that_is_used_is_named_with_its_peak_memory_and_mean_utilisation(monkeypatch):
    assert metered(monkeypatch, Cuda([100, 80, 30])) == ("Fake H100", 41 * 10**9, 0.7)


def test_a_gpu_that_is_not_used_is_not_touched(monkeypatch):
    cuda = Cuda([50], begun=False)
    assert metered(monkeypatch, cuda) == (None, None, None)
    assert cuda.utilization() == 50  # not asked before


class NVMLError(Exception):
    """As pynvml's: of no common kind."""


@pytest.mark.parametrize("error", [ModuleNotFoundError("pynvml"), NVMLError("not supported")])
def test_without_nvml_the_peak_memory_alone_is_known(monkeypatch, error):
    cuda = Cuda([error, 50])
    assert metered(monkeypatch, cuda) == ("Fake H100", 41 * 10**9, None)
    assert cuda.utilization() == 50  # not asked again


def test_a_record_tells_what_the_gpu_did(tmp_path, monkeypatch):
    monkeypatch.setitem(
        sys.modules, "torch", SimpleNamespace(cuda=Cuda([50]), get_num_threads=lambda: 2)
    )
    record = jobs.Record(tmp_path / "x.json", "score")
    record._gpu.sample()
    record.end("done")
    (attempt,) = jobs.read_record(tmp_path / "x.json")
    assert (attempt["device"], attempt["gpu_peak_bytes"]) == ("Fake H100", 41 * 10**9)
    assert attempt["gpu_utilisation"] == 0.5
