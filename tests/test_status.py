"""How far a run is, as seen from outside: states, what is next, time left, and what is shown."""

import io
import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

import waiting
from attempts import BEGUN, NOW, attempt, work
from groupmates import __main__ as cli
from groupmates.errors import UserError
from groupmates.records import campaign, jobs
from groupmates.status import queue, state, view
from groupmates.status.left import Left
from groupmates.status.queue import Queue
from groupmates.status.state import Job, Reader, Stage


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "results/small")


class Run:
    """A run's folder of logs, written as the main process and the jobs write it."""

    def __init__(self, path: Path) -> None:
        self.path, self.logs = path, path / "logs"
        self.logs.mkdir(parents=True)

    def plan(self, *names, done=(), needs=None, **more):
        stages = {name: re.sub(r"_[0-9]+$", "", name) for name in [*done, *names]}
        body = {
            "version": campaign.VERSION,
            "state": "running",
            "started": BEGUN,
            "begun": BEGUN,
            "ended": None,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "executor": "local",
            "slurm_name": None,
            "stages": {s: (needs or {}).get(s, []) for s in stages.values()},
            "jobs": {
                n: {"stage": s, "needed": n not in done, "comment": f"c {n}"}
                for n, s in stages.items()
            },
        }
        (self.logs / campaign.NAME).write_text(json.dumps(body | more))

    def record(self, name, *attempts, written=None, log=""):
        path = self.logs / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"attempts": attempts}))
        written = written or attempts[-1]["heard"]
        os.utime(path, (written, written))
        path.with_suffix(".log").write_text(log)

    def states(self, now=NOW):
        return {job.name: job.state for job in Reader(self.path).status(now).jobs}

    def text(self, now=NOW, terminal=False):
        file = io.StringIO()
        console = Console(file=file, width=240, force_terminal=terminal, color_system=None)
        console.print(view.page(Reader(self.path).status(now), terminal))
        return file.getvalue()


# What a job is at.


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (attempt("done"), "done"),
        (attempt("failed"), "failed"),
        (attempt("stopped"), "stopped"),
        (attempt("killed"), "stopped"),
        (attempt("running", NOW - 200, 195), "running"),
        (attempt("running", NOW - 200, 195 - jobs.SILENT_SECONDS), "lost"),
    ],
)
def test_a_job_is_at_what_its_last_attempt_says(run, last, expected):
    run.plan("score_00000")
    run.record("score_00000", attempt("failed"), last)
    assert run.states() == {"score_00000": expected}


def test_a_job_without_a_record_waits_and_one_that_is_not_needed_is_done(run):
    run.plan("score_00001", done=["score_00000"])
    assert run.states() == {"score_00000": "done", "score_00001": "waiting"}


@pytest.mark.parametrize("how", ["done", "failed", "running", "stopped"])
def test_what_an_earlier_campaign_left_is_waiting_until_it_runs_again(run, how):
    run.plan("take_random")
    run.record("take_random", attempt(how, BEGUN - 50, 40))
    assert run.states() == {"take_random": "waiting"}


def test_clocks_of_nodes_do_not_decide_what_is_of_this_campaign(run):
    run.plan("score_00000", "score_00001")
    behind, ahead = attempt("done", BEGUN - 500, 100), attempt("failed", BEGUN + 500, 50)
    run.record("score_00000", behind, written=BEGUN + 5)
    run.record("score_00001", ahead, written=BEGUN - 5)
    assert run.states() == {"score_00000": "done", "score_00001": "waiting"}


def test_a_job_whose_record_is_written_still_is_not_lost_whatever_its_clock(run):
    run.plan("score_00000")
    run.record("score_00000", attempt("running", BEGUN, 10), written=NOW - 3)
    assert run.states() == {"score_00000": "running"}


def test_a_job_of_this_machine_whose_process_is_gone_is_lost_at_once(run):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    here = {"host": socket.gethostname()}
    run.plan("score_00000", "score_00001")
    run.record("score_00000", attempt("running", NOW - 9, 8, pid=gone.pid, **here))
    run.record("score_00001", attempt("running", NOW - 9, 8, pid=os.getpid(), **here))
    assert run.states() == {"score_00000": "lost", "score_00001": "running"}


def test_after_a_campaign_what_snakemake_has_finished_is_done_and_nothing_else(run):
    run.plan("score_00000", "centroids", state="done", ended=NOW)
    plan = campaign.read(run.logs)
    plan["jobs"]["score_00000"]["finished"] = True
    (run.logs / campaign.NAME).write_text(json.dumps(plan))
    assert run.states() == {"score_00000": "done", "centroids": "waiting"}
    assert Reader(run.path).status(NOW).over


def test_the_main_process_is_known_to_run_or_to_be_gone_on_its_own_machine_alone(run):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for change, expected in (
        ({}, "running"),
        ({"pid": gone.pid}, "gone"),
        ({"host": "login2"}, "elsewhere"),
        ({"state": "failed"}, "failed"),
    ):
        run.plan("base", **change)
        assert Reader(run.path).status(NOW).main == expected


def test_without_a_plan_the_records_alone_are_told(run):
    run.record("base", attempt("done"))
    run.record("probe_random_00001", attempt("running", NOW - 5, 4))
    assert run.states() == {"base": "done", "probe_random_00001": "running"}
    assert "1 of 2 jobs that have begun are done; snakemake has left no plan" in run.text()


def test_a_folder_without_a_run_is_told_with_those_there_are(run, capsys):
    assert cli.main(["status", str(run.path.parent / "smal")]) == 2
    shown = capsys.readouterr().err
    assert "neither campaign.json nor a job's record" in shown
    assert "runs in" in shown and "small" in shown


def test_a_record_is_read_again_only_when_it_was_written_again(run, monkeypatch):
    run.plan("base", "score_00000")
    run.record("base", attempt("done"))
    run.record("score_00000", attempt("running", NOW - 20, 10))
    reader, read = Reader(run.path), []
    monkeypatch.setattr(
        state.jobs, "read_record", lambda p, known=jobs.read_record: read.append(p.stem) or known(p)
    )
    reader.status(NOW)
    read.clear()
    run.record("score_00000", attempt("done", NOW - 20, 15))
    assert [job.state for job in reader.status(NOW).jobs] == ["done", "done"]
    assert read == ["score_00000"]


# What is next, and when it is over.


def stage(name, *states, needs=()):
    made = [Job(f"{name}_{i:05d}", s, []) for i, s in enumerate(states)]
    return Stage(name, made, list(needs))


def test_next_is_what_waits_for_nothing_but_what_is_done_or_at_work():
    stages = [
        stage("base", "done"),
        stage("score", "running", "waiting", needs=["base"]),
        stage("centroids", "waiting", needs=["score"]),
        stage("reference", "stopped", needs=["base"]),
        stage("summarise", "waiting", needs=["reference", "base"]),
    ]
    assert [s.name for s in state.next_stages(stages)] == ["score", "reference"]


def test_nothing_is_next_behind_a_failed_or_lost_job():
    stages = [stage("score", "failed", "done"), stage("centroids", "waiting", needs=["score"])]
    assert state.next_stages(stages) == []
    stages[0] = stage("score", "lost", "done")
    assert state.next_stages(stages) == []


def timed(*jobs_):
    return Stage("score", [Job(f"score_{i:05d}", s, a) for i, (s, a) in enumerate(jobs_)], [])


def test_time_left_is_the_pace_of_finished_jobs_over_as_many_as_run():
    # Two run, 30 and 90 of about 100 s each; three wait: (70 + 10 + 300) / 2.
    found = timed(
        ("done", [attempt("done", 0, 90)]),
        ("done", [attempt("done", 0, 110)]),
        ("running", [attempt("running", NOW - 30)]),
        ("running", [attempt("running", NOW - 90)]),
        *[("waiting", [])] * 2,
        ("stopped", [attempt("stopped", 0, 5)]),
    )
    assert state.seconds_left(found, NOW) == pytest.approx(190)


def test_a_running_jobs_own_progress_counts_more_than_the_others_pace():
    # 40 of 100 documents in 20 s, 10 of them from before: 1.5/s, 40 s left.
    running = attempt("running", NOW - 20, phases=[work(40, 100, 20, resumed=10)])
    found = timed(("done", [attempt("done", 0, 1000)]), ("running", [running]))
    assert state.seconds_left(found, NOW) == pytest.approx(40)
    # Nothing done yet: another job takes as long as this one, 20 s + 40 s.
    assert state.seconds_left(timed(("running", [running]), ("waiting", [])), NOW) == (
        pytest.approx(100)
    )


@pytest.mark.parametrize(
    "phases", [[], [work(0, 100, 0.0)], [work(10, 0, 5.0)], [work(10, 10, 5.0), work(0, 9, 0)]]
)
def test_no_time_left_is_told_where_nothing_is_known(phases):
    found = timed(("running", [attempt("running", NOW - 20, phases=phases)]), ("waiting", []))
    assert state.seconds_left(found, NOW) is None
    assert state.seconds_left(timed(("waiting", [])), NOW) is None


def test_a_job_that_is_done_took_the_attempts_that_made_it():
    went_on = attempt("done", 200, 30, phases=[work(9, 9, 30, resumed=5)])
    assert state.job_seconds(Job("a", "done", [attempt("killed", 0, 60), went_on])) == 90
    assert state.job_seconds(Job("a", "running", [went_on])) is None


# SLURM's queue.

SQUEUE = """\
mine|PENDING|Priority|rule_score_wildcards_00001
mine|RUNNING|None|rule_score_wildcards_00002
mine|CONFIGURING|Prolog|rule_base
other|PENDING|Resources|rule_score_wildcards_00001
mine|PENDING|(Nodes required for job are DOWN, DRAINED)|c with | in it
"""


def test_the_queue_tells_why_each_job_of_this_campaign_does_not_run_yet():
    assert queue.parse(SQUEUE, "mine") == {
        "rule_score_wildcards_00001": "pending: Priority",
        "rule_score_wildcards_00002": "starting",
        "rule_base": "starting",
        "c with | in it": "pending: (Nodes required for job are DOWN, DRAINED)",
    }


def squeue(folder, script, monkeypatch):
    command = folder / "squeue"
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def test_jobs_in_slurms_queue_are_told_by_stage_and_reason(run, tmp_path, monkeypatch):
    names = [f"score_{i:05d}" for i in range(5)]
    run.plan(*names, executor="slurm", slurm_name="mine")
    run.record("score_00001", attempt("stopped"))
    run.record("score_00003", attempt("running", NOW - 100, 10))
    run.record("score_00004", attempt("running", NOW - 100, 98))
    lines = [f"mine|PENDING|Priority|c score_0000{i}" for i in (0, 1, 3)]
    lines += ["mine|RUNNING|None|c score_00002", "mine|RUNNING|None|c score_00004"]
    told = tmp_path / "asked"
    script = "\n".join([f'echo "$*" > {told}', *(f"echo '{line}'" for line in lines)])
    squeue(tmp_path, script, monkeypatch)
    assert run.states() == dict.fromkeys(names[:4], "queued") | {"score_00004": "running"}
    assert told.read_text().strip() == f"--me --noheader --format {queue.FORMAT}"
    assert "score: 3 pending: Priority, 1 starting" in run.text()


def test_a_lost_job_that_slurm_believes_to_run_stays_lost(run, tmp_path, monkeypatch):
    run.plan("base", executor="slurm", slurm_name="mine")
    run.record("base", attempt("running", NOW - 200, 10))
    squeue(tmp_path, "echo 'mine|RUNNING|None|c base'", monkeypatch)
    assert run.states() == {"base": "lost"}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no controller >&2; exit 1", "squeue failed: no controller"),
        ("exec sleep 30", "squeue did not answer within"),
        (None, "squeue is not on this machine"),
    ],
)
def test_a_queue_that_does_not_answer_hides_nothing_else(run, tmp_path, monkeypatch, script, said):
    monkeypatch.setattr(queue, "SECONDS_TO_ANSWER", 0.3)
    run.plan("base", executor="slurm", slurm_name="mine")
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        squeue(tmp_path, script, monkeypatch)
    assert said in run.text()
    assert run.states() == {"base": "waiting"}


def test_without_slurm_nobody_asks_its_queue(run, tmp_path, monkeypatch):
    run.plan("base")
    squeue(tmp_path, f"touch {tmp_path}/asked", monkeypatch)
    assert Queue.ask(campaign.read(run.logs)) == Queue()
    assert not (tmp_path / "asked").exists()


# What is shown.


def rows(text):
    """Cells of the lines of a page, by first cell."""
    lines = [[c.strip() for c in line.split("  ") if c.strip()] for line in text.splitlines()]
    return {line[0]: line[1:] for line in lines if line}


def a_campaign(run):
    needs = {"score": ["fit_final"], "centroids": ["score"]}
    run.plan(*[f"score_{i:05d}" for i in range(4)], "centroids", done=["fit_final"], needs=needs)
    run.record("score_00000", attempt("done", BEGUN, 120))
    resumed = [work(500, 2000, 100, resumed=100)]
    again = attempt("running", NOW - 100, 98, slurm_job_id="4711", phases=resumed)
    run.record("score_00001", attempt("killed"), again)
    log = "--- first on node7\nold trouble\n--- second on node7\n[score] 5/9\nerror in score\n"
    run.record("score_00002", attempt("failed", error="no luck"), log=log)


def test_a_page_tells_stages_running_jobs_failures_and_what_is_held_up(run):
    a_campaign(run)
    text = run.text()
    table = rows(text)
    assert "2 of 6 jobs done, 10 min 00 s since" in text
    assert f"snakemake runs (process {os.getpid()} on {socket.gethostname()})" in text
    assert table["stage"] == [
        "done", "running", "failed", "waiting", "jobs", "a job takes", "time left"
    ]  # fmt: skip
    assert table["fit_final"] == ["1", "·", "·", "·", "1"]
    assert table["score"] == ["1", "1", "1", "1", "4", "2 min 00 s", "8 min 15 s"]
    assert table["score_00001"] == [
        "node7", "4711", "1 min 40 s", "500/2,000 documents", "4/s", "6 min 15 s", "2.0 GB",
        "attempt 2; went on after 100 of 2,000 documents",
    ]  # fmt: skip
    assert "next: score (1 job)" in text
    assert "held up by score: centroids" in text
    end = text[text.index("score_00002 failed on node7; the end of") :].splitlines()
    assert end[0].endswith("logs/score_00002.log:")
    assert end[1:3] == ["  [score] 5/9", "  error in score"]
    assert "old trouble" not in text


def test_lost_jobs_are_marked_and_come_first(run):
    run.plan("score_00000", "score_00001")
    run.record("score_00000", attempt("running", NOW - 500, 499))
    run.record("score_00001", attempt("running", NOW - 300, 180))
    text = run.text()
    assert "LOST: silent for 2 min 00 s; dead, or its node is" in text
    assert text.index("score_00001") < text.index("score_00000")


def test_gpu_columns_stand_there_only_where_a_gpu_was_used(run):
    run.plan("base", "score_00000", "score_00001")
    run.record("base", attempt("done"))
    assert "GPU" not in run.text()
    used = {"gpu_peak_bytes": 30e9, "gpu_utilisation": 0.9}
    run.record("score_00000", attempt("running", NOW - 9, 8, **used))
    more = {"gpu_peak_bytes": 41e9, "gpu_utilisation": 0.7}
    run.record("score_00001", attempt("running", NOW - 8, 7, **more))
    table = rows(run.text())
    assert table["score"][-1] == "41.0 GB, 80 % busy"
    assert table["score_00000"][-1] == "30.0 GB, 90 % busy"


def test_a_terminal_gets_the_first_of_many_running_jobs_a_pipe_all(run):
    names = [f"score_{i:05d}" for i in range(view.MOST_ROWS + 7)]
    run.plan(*names)
    for number, name in enumerate(names):
        run.record(name, attempt("running", NOW - 100 + number, 99 - number))
    assert all(name in run.text() for name in names)
    short = run.text(terminal=True)
    assert "and 7 more" in short
    assert [name in short for name in names] == [True] * view.MOST_ROWS + [False] * 7


def test_of_many_failed_jobs_a_few_are_told_and_the_logs_of_all(run):
    names = [f"score_{i:05d}" for i in range(view.MOST_FAILED + 2)]
    run.plan(*names, state="failed", ended=NOW)
    for name in names:
        run.record(name, attempt("failed"), log=f"--- x\ntrouble of {name}\n")
    text = run.text()
    assert text.count("trouble of") == view.MOST_FAILED
    assert "2 more failed" in text
    assert all(f"logs/{name}.log" in text for name in names)


def test_the_main_process_ends_with_the_failed_jobs_and_the_end_of_their_logs(run, monkeypatch):
    a_campaign(run)
    monkeypatch.chdir(run.path.parent.parent)
    campaign.end(SimpleNamespace(dag=SimpleNamespace(finished_jobs=[])), "small", "failed")
    shown = view.failed_jobs(Path("results/small"))
    assert "score_00002 failed on node7; the end of results/small/logs/score_00002.log:" in shown
    assert "  error in score\n" in shown
    assert campaign.read(run.logs)["state"] == "failed"


def test_watching_goes_on_until_nothing_more_happens(run):
    run.plan("base")
    run.record("base", attempt("running", NOW - 9, 8), written=time.time())
    pages = []

    def sleep(seconds):
        pages.append(seconds)
        if len(pages) == 2:
            run.plan(done=["base"], state="done", ended=NOW)

    file = io.StringIO()
    reader = Reader(run.path)
    view.follow(Console(file=file, width=160), reader, reader.status(NOW), 3.0, sleep=sleep)
    assert pages == [3.0, 3.0]
    assert file.getvalue().count("jobs done") == 3
    assert "1 of 1 jobs done" in file.getvalue()


def test_watching_into_a_file_adds_a_line_a_minute(run, monkeypatch):
    run.plan("base", "fit")
    clock = SimpleNamespace(now=NOW)
    monkeypatch.setattr(time, "time", lambda: clock.now)

    def sleep(seconds):
        clock.now += seconds
        running = attempt("running", NOW, clock.now - NOW, phases=[work(50, 200, 10.0)])
        run.record("base", running | {"pid": os.getpid(), "host": socket.gethostname()})
        if clock.now >= NOW + 200:
            run.plan(done=["base", "fit"], state="done", ended=NOW)

    file, reader = io.StringIO(), Reader(run.path)
    told = iter([Left(9.0, []), Left(180.0, []), Left(120.0, ["fit"]), Left(60.0, []), None])
    console = Console(file=file, width=160)
    view.follow(console, reader, reader.status(NOW), 5.0, lambda found: next(told), sleep)
    lines = [line for line in file.getvalue().splitlines() if " jobs done · " in line]
    assert len(lines) == 3
    stamps = [time.strptime(line[:19], "%Y-%m-%d %H:%M:%S") for line in lines]
    assert [time.mktime(stamp) - NOW for stamp in stamps] == [60, 120, 180]
    assert "0 of 2 jobs done · base: 1 job at 5 documents/s, 30.0 s left · about 3 min" in lines[0]
    assert lines[1].endswith("left, without fit: not known yet")


def test_the_time_left_is_told_with_what_it_leaves_out():
    assert view.time_left(None) == []
    assert view.time_left(Left(120.0, [])) == ["about 2 min 00 s left"]
    (told,) = view.time_left(Left(120.0, list("abcdef")))
    assert told.endswith("left, without a, b, c, d and 2 more stages: not known yet")


def test_watching_a_terminal_draws_in_place(run):
    run.plan("base")
    file = io.StringIO()
    console = Console(file=file, width=160, force_terminal=True)
    reader = Reader(run.path)
    over = SimpleNamespace(done=False)

    def sleep(seconds):
        run.plan(done=["base"], state="done", ended=NOW)
        over.done = True

    view.follow(console, reader, reader.status(NOW), 1.0, sleep=sleep)
    assert over.done
    assert "\x1b[2K" in file.getvalue()  # the lines of the page before are erased


def test_the_command_prints_plain_lines_into_a_pipe_quickly_and_without_torch(run):
    a_campaign(run)
    done = waiting.python("-X", "importtime", "-m", "groupmates", "status", str(run.path))
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    assert not [line for line in done.stdout.splitlines() if line != line.rstrip()]
    assert rows(done.stdout)["score"][:5] == ["1", "·", "1", "1", "1"]
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "groupmates.status.view" in loaded
    assert not loaded & {"torch", "transformers", "snakemake", "matplotlib"}


def test_a_run_that_is_no_run_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"start snakemake first"):
        Reader(tmp_path / "none").status(NOW)
