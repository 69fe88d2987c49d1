"""The time line of the report: packing, pauses, what is said, and its size."""

import re
import xml.etree.ElementTree as ET

import pytest

import attempts
from groupmates.formatting import SPACE
from groupmates.report.data import reading
from groupmates.report.figures import timeline


def attempt(started, ended, state="done", resumed=0, **more):
    phases = [{"resumed": resumed}]
    return attempts.attempt(state, started, ended - started, phases=phases, **more)


def bars(**jobs):
    return timeline.bars_of(
        {name: [a | {"rule": name.split("_")[0]} for a in tried] for name, tried in jobs.items()}
    )


def test_every_attempt_is_a_bar_from_the_first_start_on():
    found = bars(
        base=[attempt(1000, 1010, "killed"), attempt(1020, 1025, resumed=3)],
        score_00000=[attempt(1030, 1040, "failed"), attempt(1041, 1050)],
        score_00001=[attempt(1030, 1035, "running"), attempt(1036, 1039, "stopped")],
    )
    assert [(b.job, b.start, b.end, b.how) for b in found] == [
        ("base", 0, 10, "killed or stopped"),
        ("base", 20, 25, "done, went on from kept progress"),
        ("score_00001", 30, 35, "killed or stopped"),
        ("score_00000", 30, 40, "failed"),
        ("score_00001", 36, 39, "killed or stopped"),
        ("score_00000", 41, 50, "done"),
    ]


def test_jobs_take_the_first_lane_that_is_free_and_all_their_attempts_stay_in_it():
    found = bars(
        score_00000=[attempt(0, 10, "killed"), attempt(30, 40)],
        score_00001=[attempt(0, 20)],
        score_00002=[attempt(20, 25)],  # while 0 waits for its second attempt
        base=[attempt(0, 5)],
    )
    assert timeline.lanes(found) == {
        "base": {"base": 0},
        "score": {"score_00001": 0, "score_00000": 1, "score_00002": 0},
    }


def test_only_pauses_of_the_whole_run_that_are_long_are_cut_out():
    found = bars(
        a=[attempt(0, 500)],
        b=[attempt(100, 400)],
        c=[attempt(550, 1000)],  # after 50 s
        d=[attempt(1090, 1100)],  # after 90 s, less than a tenth of what ran
        e=[attempt(5000, 5001)],
    )
    assert timeline.pauses(found) == [(1100, 5000)]


def test_what_the_figure_shows_is_said():
    found = bars(
        base=[attempt(0, 60, "killed"), attempt(3660, 3720, resumed=1)],
        take_random=[attempt(3720, 3730, "failed"), attempt(3730, 3780)],
    )
    assert timeline.finding(found).replace(SPACE, " ") == (
        "2 jobs ran in 4 attempts within 1 h 03 min; for 1 h 00 min nothing ran. Attempts that "
        "ended otherwise than done: 1 failed, 1 killed or stopped. 1 of those done went on from "
        "what an earlier one had kept."
    )


def campaign(jobs, at_once=64):
    """Thousands of jobs, `at_once` of them at a time."""
    waves = {
        f"score_{i:05d}": [attempt(60 * (i // at_once), 60 * (i // at_once) + 50)]
        for i in range(jobs)
    }
    return timeline.bars_of(
        {"base": [attempt(-900, 0, "killed"), attempt(0, 9, resumed=1)], **waves}
    )


def corners(drawn):
    """x of the corners of all bars, in points, by colour; those of the legend come after them."""
    found = {}
    for shape in ET.fromstring(drawn).iter("path"):
        colour = re.search(r"fill: (#\w+)", shape.get("style", ""))
        if colour:
            pairs = re.findall(r"([\d.]+) [\d.]+", shape.get("d"))
            found.setdefault(colour[1].upper(), [float(x) for x in pairs])
    return found


def test_thousands_of_jobs_stay_small_and_low():
    drawn = timeline.figure(campaign(2000))
    assert len(drawn) < 250_000
    width, height = map(float, re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawn).groups())
    assert height < 1.5 * width


def test_bars_are_as_long_as_their_attempts_and_pauses_are_shortened():
    found = bars(
        base=[attempt(0, 100)], score_00000=[attempt(100, 300)], take=[attempt(9300, 9400)]
    )
    drawn = timeline.figure(found)
    x = sorted(corners(drawn)[timeline.HOW["done"]])
    edges = [x[i] for i in range(0, len(x), 2)]
    base, score, take = (b - a for a, b in zip(edges[::2], edges[1::2], strict=True))
    assert score / base == pytest.approx(2, rel=0.05)
    assert take / base == pytest.approx(1, rel=0.05)
    assert edges[4] - edges[3] < 0.3 * base
    assert "nothing ran for 2 h 30 min" in drawn.replace(SPACE, " ")


def test_the_colours_tell_how_attempts_ended_and_only_those_there_are_are_explained():
    drawn = timeline.figure(campaign(3))
    assert "killed or stopped" in drawn
    assert ">failed<" not in drawn
    assert corners(drawn).keys() >= {timeline.HOW["killed or stopped"], timeline.HOW["done"]}


def test_gpu_use_is_the_highest_memory_and_the_mean_over_time():
    gpu = {"gpu_peak_bytes": 30e9, "gpu_utilisation": 0.9}
    records = {
        "probe_random_00000": [attempt(0, 30, stage="probe", **gpu)],
        "plan_bootstrap": [
            attempt(50, 60, stage="plan-bootstrap", gpu_peak_bytes=41e9, gpu_utilisation=0.5)
        ],
        "fit_final": [attempt(60, 90, stage="fit", gpu_peak_bytes=5e9, gpu_utilisation=None)],
        "take_random": [attempt(90, 99, stage="take", gpu_peak_bytes=None)],
    }
    found = reading.gpu_use(records)
    assert found.keys() == {"probe", "fit"}
    assert found["probe"].peak_megabytes == 41_000
    assert found["probe"].utilisation == pytest.approx((0.9 * 30 + 0.5 * 10) / 40)
    assert (found["fit"].peak_megabytes, found["fit"].utilisation) == (5_000, None)
