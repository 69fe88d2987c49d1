"""Progress lines: count, rate and time left."""

import pytest

from groupmates import progress


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
