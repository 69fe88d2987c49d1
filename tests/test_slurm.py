"""What a main process does before it submits, with pretended SLURM commands (real: tests/slurm/)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake_executor_plugin_slurm import Executor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo

import waiting
from groupmates.errors import UserError
from groupmates.slurm import preflight

PACKAGE = Path(__file__).parent.parent / "workflow"


class Commands:
    """SLURM commands that say what a test wants; their calls are written down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def say(self, name: str, script: str) -> None:
        file = self.folder / name
        file.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.folder}/calls\n{script}\n')
        file.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands(tmp_path / "commands")
    monkeypatch.setenv("PATH", f"{made.folder}:/usr/bin:/bin")
    return made


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time passes at once."""
    waits: list[float] = []
    monkeypatch.setattr(preflight.time, "sleep", waits.append)
    monkeypatch.setattr(preflight.time, "monotonic", lambda: sum(waits))
    return waits


# What a job asks for


def test_a_request_grows_with_the_attempt_up_to_the_limit_of_the_site():
    memory = preflight.growing(16_000, 40_000)
    assert [memory(None, attempt) for attempt in (1, 2, 3, 4)] == [16_000, 32_000, 40_000, 40_000]
    assert preflight.growing(30, None)(None, 4) == 120


def test_the_profiles_differ_in_the_machine_and_not_in_what_is_stale():
    import yaml

    local, on_slurm = (
        yaml.safe_load((PACKAGE.parent / f"profiles/{name}/profile.yaml").read_text())
        for name in ("local", "slurm")
    )
    for key in ("rerun-triggers", "rerun-incomplete", "keep-going", "show-failed-logs"):
        assert local[key] == on_slurm[key]


# Names and leftovers


def test_names_tell_runs_and_checkouts_apart_and_fit_what_the_plugin_takes(tmp_path):
    names = [
        preflight.prefix(run, folder)
        for run in ("demo", "demo.1", "demo-1", "x" * 200)
        for folder in (tmp_path, tmp_path / "other")
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) <= 50 for name in names)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in names)


def test_a_checkout_has_one_name_however_it_is_reached(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert preflight.prefix("demo", tmp_path / "link") == preflight.prefix(
        "demo", tmp_path / "real"
    )


def test_jobs_of_this_run_are_cancelled_and_waited_for_and_no_others(commands, no_waiting):
    """squeue shows them twice more: SLURM is still ending them."""
    seen = commands.folder / "seen"
    commands.say(
        "squeue",
        f"echo x >> {seen}; n=$(wc -l < {seen})\n"
        'echo "9|groupmates-demo-1_abc"; echo "10|groupmates-demo-11_abc"; echo "11|other"\n'
        '[ $n -gt 3 ] || { echo "7|groupmates-demo-1234_abc"; echo "8|groupmates-demo-1234_def"; }',
    )
    commands.say("scancel", "")
    said: list[str] = []
    assert preflight.cancel_leftovers("groupmates-demo-1234", said.append) == ["7", "8"]
    assert [c for c in commands.calls if c.startswith("scancel")] == ["scancel 7 8"]
    assert len([c for c in commands.calls if c.startswith("squeue")]) == 4
    assert len(said) == 1
    assert "cancelled 2 jobs that a killed snakemake had left in SLURM (7, 8)" in said[0]


def test_only_jobs_of_this_user_are_looked_at(commands):
    commands.say("squeue", "")
    assert preflight.leftovers("groupmates-demo-1234", print) == []
    assert f"--user {preflight.getpass.getuser()}" in commands.calls[0]


def test_jobs_that_do_not_end_are_named_after_a_while(commands, no_waiting):
    commands.say("squeue", 'echo "7|name_abc"')
    commands.say("scancel", "")
    with pytest.raises(UserError, match="still there after 600 s: 7"):
        preflight.cancel_leftovers("name", lambda text: None)


# A slurmctld that is away


AWAY = "echo 'slurm_load_jobs error: Unable to contact slurm controller (connect failure)' >&2"


def test_a_slurmctld_that_comes_back_is_waited_for(commands, no_waiting):
    count = commands.folder / "count"
    commands.say(
        "squeue",
        f"echo x >> {count}; [ $(wc -l < {count}) -lt 4 ] && {{ {AWAY}; exit 1; }}; echo ok",
    )
    said: list[str] = []
    assert preflight.ask("squeue", say=said.append) == "ok\n"
    assert len(said) == 3
    assert no_waiting == [2, 4, 8]


def test_a_slurmctld_that_stays_away_ends_with_what_to_do(commands, no_waiting):
    commands.say("squeue", f"{AWAY}; exit 1")
    with pytest.raises(UserError, match="none for 300 s") as caught:
        preflight.ask("squeue", say=lambda text: None)
    assert "scontrol ping" in caught.value.todo


def test_what_slurm_says_otherwise_is_passed_on_at_once(commands, no_waiting):
    commands.say("squeue", "echo 'squeue: error: Invalid user id: nobody' >&2; exit 1")
    with pytest.raises(UserError, match="Invalid user id: nobody"):
        preflight.ask("squeue", say=print)
    assert no_waiting == []


# Refusals


@pytest.mark.parametrize(
    ("message", "setting"),
    [
        ("sbatch: error: invalid partition specified: fast", "slurm_partition"),
        (
            "allocation failure: Invalid account or account/partition combination specified",
            "slurm_account",
        ),
        ("sbatch: error: You must specify an account (--account)", "slurm_account"),
        ("sbatch: error: Account required", "slurm_account"),
        ("allocation failure: Invalid qos specification", "qos"),
        ("allocation failure: Invalid feature specification", "constraint"),
        ("allocation failure: Invalid generic resource (gres) specification", "gpu (or gres)"),
        (
            "allocation failure: Requested node configuration is not available",
            "gpu (or gres), mem_mb",
        ),
        ("sbatch: error: Memory specification can not be satisfied", "gpu (or gres), mem_mb"),
        (
            "allocation failure: Requested time limit is invalid (missing or exceeds some limit)",
            "max_runtime",
        ),
        (
            "allocation failure: Job violates accounting/QOS policy (job submit limit, user's "
            "size and/or time limits)",
            "slurm_account, qos",
        ),
        ("sbatch: error: something new", "default-resources, set-resources"),
    ],
)
def test_a_refusal_names_the_setting_to_change(message, setting, commands, no_waiting):
    commands.say(
        "sinfo", 'case "$*" in *"|"*) echo "cpu|infinite";; *) echo "cpu 64 250000 gpu:4";; esac'
    )
    commands.say("sbatch", f'echo "{message}" >&2; exit 1')
    request = preflight.Request("sbatch -p cpu --mem 10", "cpu", 30, ("probe", "score"))
    with pytest.raises(UserError) as caught:
        preflight.check([request], lambda text: None)
    assert caught.value.where.startswith(setting)
    assert "profiles/slurm/profile.yaml" in caught.value.where
    assert message in caught.value.found
    assert "probe, score" in caught.value.expected
    assert all(
        call.startswith("sbatch --test-only -p cpu") for call in commands.calls if "sbatch" in call
    )


def test_a_time_limit_that_the_partition_does_not_allow_is_refused_though_sbatch_takes_it(commands):
    commands.say("sinfo", "echo 'cpu|4:00:00'; echo 'long|infinite'")
    commands.say("sbatch", "")
    preflight.check([preflight.Request("sbatch", "cpu", 240, ("fit",))], print)
    preflight.check([preflight.Request("sbatch", "long", 9999, ("fit",))], print)
    with pytest.raises(UserError, match="max_runtime: 240") as caught:
        preflight.check([preflight.Request("sbatch", "cpu", 960, ("fit",))], print)
    assert "960 minutes, at the last attempt, of fit" in caught.value.found


def test_nodes_have_a_while_to_answer_a_slurmctld_that_has_just_started(commands, no_waiting):
    count = commands.folder / "count"
    commands.say("sinfo", "echo 'cpu|infinite'")
    commands.say(
        "sbatch",
        f"echo x >> {count}; [ $(wc -l < {count}) -gt 2 ] || "
        "{ echo 'allocation failure: Requested node configuration is not available' >&2; exit 1; }",
    )
    preflight.check([preflight.Request("sbatch", "cpu", 30, ("fit",))], print)
    assert no_waiting == [2, 2]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ("30:00", 30),
        ("4:00:00", 240),
        ("1-00:00:00", 1440),
        ("2-01:30:00", 2970),
        ("infinite", None),
    ],
)
def test_time_limits_are_read_as_sinfo_shows_them(shown, expected):
    assert preflight.minutes(shown) == expected


@pytest.mark.parametrize(("seconds", "warned"), [(120, True), (300, False)])
def test_a_slurmctld_with_a_short_memory_is_warned_of(seconds, warned, commands):
    commands.say("scontrol", f"echo 'MinJobAge               = {seconds} sec'")
    said: list[str] = []
    preflight.warn_of_forgetting(said.append)
    assert [f"after {seconds} s (MinJobAge)" in text for text in said] == [True] * warned


# One main process per run


CLAIM = """
import sys, time
from pathlib import Path
from groupmates.slurm import preflight
preflight.SECONDS_BETWEEN_BEATS = 0.2
print(preflight.claim(Path(sys.argv[1]), sys.argv[2], print), flush=True)
sys.stdin.read()
"""


def claimant(folder: Path, executor: str = "slurm") -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", CLAIM, str(folder), executor],
        env=waiting.environment(),
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    return process


def claimed(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_run_has_one_main_process_and_the_second_is_told_of_the_first(tmp_path):
    first = claimant(tmp_path)
    assert claimed(first) == "False"
    _, errors = claimant(tmp_path).communicate()
    assert f"process {first.pid} of" in errors
    assert socket.gethostname() in errors
    assert "is at this run" in errors
    first.communicate()
    third = claimant(tmp_path)
    assert claimed(third) == "False", "an orderly end leaves nothing"
    third.communicate()


@pytest.mark.parametrize(("executor", "left"), [("slurm", "True"), ("local", "False")])
def test_a_killed_main_process_is_followed_by_one_that_knows_of_its_jobs(executor, left, tmp_path):
    first = claimant(tmp_path, executor)
    claimed(first)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    second = claimant(tmp_path, "local")
    assert claimed(second) == left
    second.communicate()


def elsewhere(folder: Path) -> Path:
    """As it looks from another login node, to which this file system carries no locks."""
    folder.mkdir()
    path = folder / ".main.json"
    path.write_text(json.dumps({"host": "login-2", "pid": 7, "user": "anna", "executor": "slurm"}))
    return path


def test_a_living_main_process_on_another_login_node_is_told_by_its_beat(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "SECONDS_BETWEEN_BEATS", 5.0)
    path = elsewhere(tmp_path / "run")
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.1):
            os.utime(path)

    threading.Thread(target=beat).start()
    try:
        with pytest.raises(UserError, match="process 7 of anna on login-2 is at this run"):
            preflight.claim(tmp_path / "run", "slurm", lambda text: None)
    finally:
        over.set()


def test_a_lost_login_node_is_given_up_after_three_beats(tmp_path):
    elsewhere(tmp_path / "run")
    began = time.monotonic()
    process = claimant(tmp_path / "run")
    assert "watching" in claimed(process)
    assert claimed(process) == "True"
    assert time.monotonic() - began > 0.6
    process.communicate()


# While jobs run


def test_jobs_that_slurm_says_nothing_of_are_looked_at_again(commands: Commands) -> None:
    commands.say("scontrol", 'echo "MinJobAge = 300 sec"')
    commands.say("squeue", "exit 1")
    job = SubmittedJobInfo(SimpleNamespace(), external_jobid="7", aux={})
    settings = {"status_attempts": 2, "status_command": "squeue", "keep_successful_logs": True}
    executor = Executor.__new__(Executor)
    executor.workflow = SimpleNamespace(
        executor_settings=SimpleNamespace(**settings, init_seconds_before_status_checks=1),
        remote_execution_settings=SimpleNamespace(seconds_between_status_checks=1),
    )
    executor.logger, executor.run_uuid = logging.getLogger("slurm"), "run"
    executor.status_rate_limiter = contextlib.nullcontext()
    for figure in ("failures", "calls", "total_seconds", "min_seconds", "max_seconds"):
        setattr(executor, f"_status_query_{figure}", 0)
    executor._status_query_cycle_rows = []
    executor._next_seconds_between_status_checks = None
    done: list[SubmittedJobInfo] = []
    executor.report_job_success = done.append
    preflight.forget_no_job(executor)

    async def look() -> list[SubmittedJobInfo]:
        return [found async for found in executor.check_active_jobs([job])]

    assert asyncio.run(look()) == [job]
    commands.say("squeue", 'echo "7|RUNNING"')
    assert asyncio.run(look()) == [job]
    commands.say("squeue", 'echo "7|COMPLETED"')
    assert asyncio.run(look()) == []
    assert done == [job]
