"""Progress lines: count, rate and time left."""

import io
from contextlib import contextmanager, redirect_stderr

import pytest

from groupmates import progress
from groupmates.run_stage import Tee


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_line_tells_count_rate_and_time_left(clock, capsys):
    work = progress.Progress("probe 1/2", 40, "steps")
    clock[0] += 6
    work.advance(12)
    assert capsys.readouterr().err == "[probe 1/2] 12/40 steps · 2.0/s · 14 s left\n"


def test_lines_come_at_most_every_few_seconds_and_once_at_the_end(clock, capsys):
    work = progress.Progress("score", 3, "documents")
    for _ in work.over(range(3)):
        clock[0] += 1
    assert capsys.readouterr().err == "[score] 3/3 documents · 1.0/s · 3.0 s\n"


def test_an_unknown_total_is_not_shown(clock, capsys):
    work = progress.Progress("sample", 0, "documents")
    clock[0] += 10
    work.advance(50)
    assert "50 documents · 5.0/s" in capsys.readouterr().err


@contextmanager
def job():
    """A job's standard error: what its terminal and its log get."""
    terminal, log = io.StringIO(), io.StringIO()
    with redirect_stderr(Tee(terminal, log)):
        yield terminal, log


def two_and_a_half_minutes(clock):
    work = progress.Progress("score", 150, "documents")
    for _ in range(150):
        clock[0] += 1
        work.advance()
    work.finish()


def counts(stream):
    return [int(line.split()[1].split("/")[0]) for line in stream.getvalue().splitlines()]


def test_a_log_gets_a_line_a_minute_and_the_first_and_last_while_the_terminal_gets_all(
    clock, monkeypatch
):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with job() as (terminal, log):
        two_and_a_half_minutes(clock)
    assert counts(terminal) == [*range(5, 151, 5)]
    assert counts(log) == [5, 65, 125, 150]


def test_under_slurm_what_would_be_the_terminal_is_a_log_too(clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    with job() as streams:
        two_and_a_half_minutes(clock)
    assert [counts(stream) for stream in streams] == [[5, 65, 125, 150]] * 2


def test_remarks_of_a_stage_always_reach_the_log(clock):
    with job() as (terminal, log):
        progress.note("base", "AdamW settings are those of base.optimizer")
    assert terminal.getvalue() == "[base] AdamW settings are those of base.optimizer\n"
    assert log.getvalue() == terminal.getvalue()
