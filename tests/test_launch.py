"""Training in several processes: the same as in one, started together, ended together."""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file
from torch import distributed as dist

import together
import trainings
import waiting
from groupmates import __main__ as cli
from groupmates import run_stage
from groupmates.artefacts import unfinished
from groupmates.artefacts.store import read_table
from groupmates.artefacts.unfinished import STOPPED
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.distributed import Processes
from groupmates.records.jobs import read_record
from groupmates.slurm import join, queries

PATHS = os.pathsep.join([str(Path(unfinished.__file__).parents[2]), str(Path(__file__).parent)])

# A batch that two and four processes cannot share evenly, one that is smaller than four, and no
# dropout, whose masks belong to a process.
UNEVEN = {
    "base": {"batch_sequences": 5},
    "moments": {"batch_sequences": 3},
    "fit": {"batch_rollouts": 7, "dropout": 0.0},
    "evaluate": {"batch_sequences": 3},
    "pretrain": {"batch_sequences": 3},
}


@pytest.fixture(scope="module")
def inputs(small_run, tmp_path_factory):
    return trainings.make_inputs(small_run, tmp_path_factory.mktemp("inputs"))


# Several processes are as one


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8])
def test_processes_share_every_row_once_and_their_average_is_the_mean_of_the_batch(rows, count):
    values = np.random.default_rng(rows).normal(size=rows)
    shares = [Processes(rank, count).share(rows) for rank in range(count)]
    seen = [i for part, weight in shares if weight for i in range(rows)[part]]
    assert sorted(seen) == list(range(rows))
    means = [weight * values[part].mean() for part, weight in shares]
    assert np.mean(means) == pytest.approx(values.mean())


def train(commands: list[list[str]], meeting: Path, rank: int, count: int) -> None:
    """Every training, as one of `count` processes."""
    lm.MICRO_TOKENS = 30  # a row each: several passes in every step, more in some processes
    together.meet(meeting, rank, count)
    for command in commands:
        assert cli.main(command) == 0, command
    dist.destroy_process_group()


def in_processes(count: int, inputs, folder: Path) -> None:
    """Every training, in `count` processes."""
    folder.mkdir()
    commands = [
        trainings.command(name, inputs, folder / name, **UNEVEN[name]) for name in trainings.NAMES
    ]
    together.run(count, train, commands, folder / "meeting")


def results(folder: Path) -> dict[str, np.ndarray]:
    """The numbers that the trainings end with."""
    found = {}
    for name in ("base/base", "moments/base", "fit/fit", "pretrain/random/seed-0"):
        for file in ("model", "optimizer"):
            path = folder / name / f"{file}.safetensors"
            if path.exists():
                found |= {f"{name} {n}": t.numpy() for n, t in load_file(path).items()}
    heldout = read_table(folder / "fit/fit/heldout.parquet", "heldout")
    found["heldout"] = heldout["predicted_nats"].to_numpy()
    curve = read_table(folder / "evaluate/curve.parquet", "curve")
    found["losses"] = curve["loss_nats"].to_numpy()
    table = folder / "pretrain/random/seed-0.curve.parquet"
    found["pretrain"] = read_table(table, "pretrain_curve")["heldout_nats"].to_numpy()
    return found


def test_one_two_and_four_processes_train_the_same_models(inputs, tmp_path):
    for count in (1, 2, 4):
        in_processes(count, inputs, tmp_path / str(count))
    one, *others = (results(tmp_path / str(count)) for count in (1, 2, 4))
    assert len(one["losses"]) == 4
    for other in others:
        assert other.keys() == one.keys()
        np.testing.assert_allclose(other["losses"], one["losses"], rtol=1e-5)
        np.testing.assert_allclose(other["heldout"], one["heldout"], rtol=1e-3, atol=1e-5)
        for name, values in one.items():
            np.testing.assert_allclose(other[name], values, rtol=1e-3, atol=1e-5, err_msg=name)


# On one machine


@pytest.mark.long
def test_two_processes_that_are_told_to_stop_go_on_from_what_they_kept(inputs, tmp_path):
    command = trainings.command("base", inputs, tmp_path, training_steps=150)
    command += ["--log", str(tmp_path / "logs/base.log"), "--processes", "2"]
    kept = tmp_path / ".base.kept"

    def start(*options: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "groupmates", *command, *options],
            env={**os.environ, "PYTHONPATH": PATHS, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    first = start("--save-seconds", "0")
    waiting.until(lambda: list(kept.glob("after-*")), "a save", first, step=0.02)
    first.send_signal(signal.SIGTERM)
    told = first.communicate()[1]
    assert first.returncode == STOPPED, told
    assert "told to stop, progress is kept" in told
    second = start()
    told = second.communicate()[1]
    assert second.returncode == 0, told
    assert "goes on after" in told
    assert (tmp_path / "base/model.safetensors").exists()
    assert not kept.exists()
    assert not (tmp_path / "logs/base.processes").exists()
    states = [attempt["state"] for attempt in read_record(tmp_path / "logs/base.json")]
    assert states == ["stopped", "done"]


@pytest.mark.parametrize(
    ("words", "status"), [("0 0", 0), ("waits 1", 1), ("dies waits", 1), ("told told", 1)]
)
def test_the_end_of_one_process_is_that_of_all(words, status, tmp_path, monkeypatch):
    def stage(command: list[str]) -> int:  # pickled as it is, so that no process imports torch
        word = command[int(os.environ["RANK"])]
        if word == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if word == "told":
            os.kill(os.getppid(), signal.SIGTERM)  # submitit passes it on
        return int(word) if word.isdigit() else time.sleep(300)

    monkeypatch.setattr(join, "SECONDS_TO_END", 1)
    monkeypatch.setattr(join.signal, "signal", lambda number, handler: None)
    monkeypatch.setenv("PYTHONPATH", PATHS)
    (tmp_path / "job.log").touch()
    assert join.run_here(stage, words.split(), 2, tmp_path / "job.log") == status
    assert (tmp_path / "job.processes").exists() == (status != 0)


def test_stages_that_do_not_train_run_in_one_process(tmp_path, capsys):
    command = ["accept", "--log", str(tmp_path / "log"), "--processes", "2"]
    assert cli.main(command) == 2
    assert "base, fit, evaluate" in capsys.readouterr().err


# What the profile says


SRUN = "srun --nodes={} --ntasks={} --kill-on-bad-exit=1"
OF_NODES = SRUN.format(2, 8) + " --ntasks-per-node=4 --cpus-per-task=3"


@pytest.mark.parametrize(
    ("resources", "before", "option"),
    [
        ({"nodes": 1, "mem_mb": 5}, "", ""),
        ({"tasks_per_node": 8}, "", "--processes 8"),
        ({"mpi": "srun", "nodes": 2, "tasks_per_node": 4}, OF_NODES, "--join"),
        ({"mpi": "srun", "tasks": 2, "cpus_per_task": -1}, SRUN.format(1, 2), "--join"),
    ],
)
def test_resources_say_how_many_processes_train(resources, before, option):
    assert join.launch(3, resources) == (before, option)


@pytest.mark.parametrize(
    ("resources", "todo"),
    [
        ({"tasks_per_node": 0}, "correct them"),
        ({"mpi": "srun", "nodes": "2 * attempt"}, "correct them"),
        ({"nodes": 2, "tasks_per_node": 2}, "add mpi: srun"),
        ({"mpi": "mpirun", "tasks": 2}, "name srun"),
    ],
)
def test_numbers_of_processes_that_are_none_are_refused(resources, todo):
    with pytest.raises(UserError, match=todo):
        join.launch(1, resources)


# One of several processes


SLURM = {
    "SLURM_PROCID": "5",
    "SLURM_NTASKS": "8",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS_PER_NODE": "4",
    "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7",
    "SLURM_JOB_ID": "70123",
}


def test_a_process_knows_its_place_by_the_words_of_slurm_or_torchrun(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(SLURM))
    assert join.place() == 5
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
    found = [os.environ[name] for name in names.split()]
    assert found == ["5", "8", "1", "4", "10.0.0.7", "20123"]
    monkeypatch.setattr(os, "environ", SLURM | {"RANK": "3"})
    assert join.place() == 3
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(UserError, match="no SLURM_PROCID"):
        join.place()


def test_gpus_are_enough_for_the_processes_of_a_node(monkeypatch):
    import torch

    monkeypatch.setattr(os, "environ", {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4"})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="set tasks_per_node to 2"):
        join.join()


def test_what_a_later_process_alone_failed_of_is_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "environ", SLURM | {"RANK": "3"})
    monkeypatch.setattr(run_stage.time, "sleep", lambda seconds: None)
    handler = signal.getsignal(signal.SIGTERM)
    log = tmp_path / "base.log"
    assert cli.main(["base", "--join", "--log", str(log), "--settings", "{"]) != 0
    signal.signal(signal.SIGTERM, handler)
    assert "the last words of process 3:\n" in log.read_text()
    assert "--tokenizer" in log.read_text()


# A job that must leave its node


RUNNING = "JobId=7 JobName=groupmates-demo JobState=RUNNING EndTime=2099-01-01T00:00:00 "
PREEMPTED = RUNNING + "PreemptTime=2026-11-24T14:13:47"


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Says what a test wants, and notes what it was asked."""
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(queries.time, "sleep", lambda seconds: None)

    def say(text: str) -> Path:
        # One that runs cannot be written to; it can be replaced.
        new = tmp_path / "new"
        new.write_text(f"#!/bin/sh\necho $* >> {tmp_path}/asked\necho {text}\n")
        new.chmod(0o755)
        new.rename(tmp_path / "scontrol")
        return tmp_path / "asked"

    return say


def in_seconds(number: float) -> str:
    return (datetime.now() + timedelta(seconds=number)).isoformat(timespec="seconds")


@pytest.mark.parametrize(
    ("said", "seconds", "why"),
    [
        (PREEMPTED, 0, "preempted"),
        (PREEMPTED.replace("groupmates-demo", "shell"), 0, None),  # snakemake itself runs in it
        (PREEMPTED.replace("RUNNING", "COMPLETING"), 0, None),
        (RUNNING + "PreemptTime=None", 240, None),  # killed for its memory, for instance
        (RUNNING.replace("2099-01-01T00:00:00", "SOON"), 240, "at its time limit"),
        (RUNNING.replace("2099-01-01T00:00:00", "SOON"), 0, None),
        (RUNNING.replace("2099-01-01T00:00:00", "Unknown"), 240, None),
        ("", 240, None),  # slurmctld does not answer
    ],
)
def test_a_job_is_queued_again_for_a_preemption_or_its_time_limit(
    said, seconds, why, scontrol, capsys
):
    asked = scontrol(said.replace("SOON", in_seconds(200)))
    queries.queue_again(seconds)
    assert ("requeue 7" in asked.read_text()) == (why is not None)
    assert capsys.readouterr().err == (f"[job] {why}: queued again\n" if why else "")


def test_a_queue_that_does_not_take_a_job_back_is_told_after_it_was_asked(scontrol, capsys):
    asked = scontrol(PREEMPTED)
    script = asked.with_name("scontrol")
    script.write_text(
        script.read_text() + 'if [ "$1" = requeue ]; then echo no such job >&2; exit 1; fi\n'
    )
    queries.queue_again()
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "[job] preempted: queued again",
        "[job] SLURM refused to queue it again: no such job",
    ]


def test_a_training_is_warned_before_its_time_limit(scontrol):
    warned = threading.Event()
    handler = signal.signal(signal.SIGTERM, lambda number, frame: warned.set())
    scontrol(f"JobState=RUNNING EndTime={in_seconds(100)}")
    queries.warn_in_time()
    assert not warned.wait(0.3)
    scontrol(f"JobState=RUNNING EndTime={in_seconds(40)}")
    assert warned.wait(600)
    signal.signal(signal.SIGTERM, handler)


HOUR = 3600.0


@pytest.mark.parametrize(
    ("ends", "warned"),
    [
        ([(0, HOUR)], HOUR - 120),
        ([(0, HOUR), (60, None)], HOUR - 120),  # the end is known
        ([(0, HOUR), (1800, 2 * HOUR)], 2 * HOUR - 120),
        # The question at the end that was known first is not answered.
        ([(0, HOUR), (1800, 2 * HOUR), (3300, None), (3700, 2 * HOUR)], 2 * HOUR - 120),
        ([(0, None), (200, HOUR)], HOUR - 120),  # the first question is not answered
        ([(0, HOUR), (1800, math.inf)], None),
        ([(0, None)], None),
    ],
)
def test_a_question_that_slurm_does_not_answer_neither_ends_a_training_nor_forgoes_its_warning(
    ends, warned, monkeypatch
):
    """`ends`: from which second on SLURM tells which end of the job, None where it is silent."""
    now, killed = 0.0, []

    def sleep(seconds):
        nonlocal now
        now += seconds
        if now > 10 * HOUR:
            raise SystemExit

    def described(job, **_):
        end = next(end for since, end in reversed(ends) if since <= now)
        if end is None:
            return {}
        return {"EndTime": "Unknown" if end == math.inf else in_seconds(end - now)}

    def thread(target, args, daemon):
        return SimpleNamespace(start=lambda: target(*args))

    clock = SimpleNamespace(sleep=sleep, monotonic=lambda: now)
    monkeypatch.setattr(queries, "time", clock)
    monkeypatch.setattr(queries, "threading", SimpleNamespace(Thread=thread))
    monkeypatch.setattr(queries, "described", described)
    monkeypatch.setattr(queries.os, "kill", lambda *_: killed.append(now))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with contextlib.suppress(SystemExit):
        queries.warn_in_time()
    assert killed == ([] if warned is None else [pytest.approx(warned, abs=3)])
