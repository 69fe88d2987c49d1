"""The time left of a whole run: from its own rates, by its work, along its graph."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import replay
from attempts import NOW, attempt
from attempts import work as phase
from groupmates.cost.jobs import Jobs, Phase
from groupmates.settings.config import Config, load
from groupmates.status import left
from groupmates.status.left import Estimator
from groupmates.status.queue import Queue
from groupmates.status.state import Job, Stage, Status
from test_config import DEFAULTS


def status(
    run: Path, stages: dict[str, tuple[list[str], list[Job]]], slots: int, executor: str = "local"
) -> Status:
    """`stages`: name -> the stages it needs, its jobs. The command of a job is its stage."""
    plan = {
        "state": "running",
        "executor": executor,
        "slots": slots,
        "config": json.loads(Config.model_dump_json(load(DEFAULTS))),
        "jobs": {
            job.name: {"command": name.replace("_", "-"), "threads": 1}
            for name, (_, jobs) in stages.items()
            for job in jobs
        },
    }
    found = [Stage(name, jobs, needs) for name, (needs, jobs) in stages.items()]
    return Status(run, "running", plan, found, Queue(), NOW)


@pytest.fixture
def estimate(tmp_path, monkeypatch):
    """An estimate where the work of jobs is as given, by command."""

    def of(found: Status, work: dict[str, list[Jobs]]) -> left.Left | None:
        monkeypatch.setattr(left.work, "stages", lambda config, sizes: work)
        monkeypatch.setattr(left.sizes, "measure", lambda config, run, core: None)
        return Estimator(tmp_path).left(found)

    return of


def test_jobs_go_on_as_those_before_them_as_many_at_once_as_there_are_cores(estimate, tmp_path):
    done = [Job("score_00000", "done", [attempt("done", NOW - 50, 40.0)])]
    waiting = [Job(f"score_{i:05d}", "waiting", []) for i in range(1, 6)]
    for slots, seconds in ((1, 200.0), (2, 120.0), (5, 40.0), (9, 40.0)):
        found = status(tmp_path, {"score": ([], [*done, *waiting])}, slots)
        assert estimate(found, {}) == left.Left(seconds, [])


def test_a_stage_waits_for_the_whole_of_those_that_it_needs(estimate, tmp_path):
    a = [Job("a_0", "done", [attempt("done", NOW - 90, 10.0)]), Job("a_1", "waiting", [])]
    b = [Job("b_0", "done", [attempt("done", NOW - 80, 7.0)]), Job("b_1", "waiting", [])]
    found = status(tmp_path, {"a": ([], a), "b": (["a"], b)}, 4)
    assert estimate(found, {}).seconds == 17.0
    found = status(tmp_path, {"a": ([], a), "b": ([], b)}, 4)
    assert estimate(found, {}).seconds == 10.0


def test_a_training_that_has_not_begun_takes_what_an_earlier_one_tells(estimate, tmp_path):
    """By hand: 100 steps of 6 FLOP each in 60 s are 10 FLOP a second; 5 s beside them."""
    work = {
        "base": [Jobs(1, [Phase("steps", 100, {"train": 600.0})])],
        "evaluate": [Jobs(2, [Phase("steps", 50, {"train": 900.0, "forward": 100.0})])],
    }
    steps = phase(100, 100, 60.0, unit="steps")
    base = [Job("base", "done", [attempt("done", NOW - 70, 65.0, phases=[steps])])]
    later = [Job("evaluate_0", "waiting", []), Job("evaluate_1", "waiting", [])]
    found = status(tmp_path, {"base": ([], base), "evaluate": (["base"], later)}, 1)
    assert estimate(found, work) == left.Left(2 * (1000 / 10 + 5), [])


def test_the_time_that_snakemake_takes_between_two_jobs_counts(estimate, tmp_path):
    done = [Job(f"a_{i}", "done", [attempt("done", NOW - 100 + 13 * i, 10.0)]) for i in range(3)]
    waiting = [Job("a_3", "waiting", []), Job("a_4", "waiting", [])]
    found = status(tmp_path, {"a": ([], [*done, *waiting])}, 1)
    assert estimate(found, {}).seconds == 2 * (10 + 3)


def test_a_job_that_is_done_and_whose_record_has_no_end_tells_no_time(estimate, tmp_path):
    """Its last beat met a full disk, say, while its outputs were written."""
    done = [Job("a_0", "done", [attempt("done", NOW - 99, ended=None)])]
    done.append(Job("a_1", "done", [attempt("done", NOW - 50, 10.0)]))
    found = status(tmp_path, {"a": ([], [*done, Job("a_2", "waiting", [])])}, 1)
    assert estimate(found, {}).seconds == 10.0


def test_a_job_that_runs_gives_a_rate_and_has_its_own_rest(estimate, tmp_path):
    """Half of 100 steps in 50 s, 10 s of start: 50 s are left, and another 110 s for the next."""
    work = {"base": [Jobs(2, [Phase("steps", 100, {"train": 600.0})])]}
    steps = phase(50, 100, 50.0, unit="steps")
    running = Job("base_0", "running", [attempt("running", NOW - 60, 60, phases=[steps])])
    found = status(tmp_path, {"base": ([], [running, Job("base_1", "waiting", [])])}, 1)
    assert estimate(found, work).seconds == pytest.approx(50 + 100)


def test_what_is_not_known_is_named_and_not_made_up(estimate, tmp_path):
    work = {"greedy": [Jobs(1, [Phase("documents", 9, {"greedy": 9.0})])]}
    done = [Job("a", "done", [attempt("done", NOW - 90, 10.0)])]
    waiting = [Job("greedy", "waiting", [])]
    found = status(tmp_path, {"a": ([], done), "greedy": ([], waiting)}, 1)
    assert estimate(found, work) == left.Left(10.0, ["greedy"])  # its start, as that of others


def test_a_plan_is_asked_where_the_run_tells_nothing_scaled_by_the_jobs_so_far(estimate, tmp_path):
    stages = {"a": {"seconds": 5.0, "jobs": 1}, "greedy": {"seconds": 60.0, "jobs": 2}}
    (tmp_path / "plan.json").write_text(json.dumps({"stages": stages}))
    done = [Job("a", "done", [attempt("done", NOW - 90, 10.0)])]
    waiting = [Job("greedy_0", "waiting", []), Job("greedy_1", "waiting", [])]
    found = status(tmp_path, {"a": ([], done), "greedy": ([], waiting)}, 1)
    assert estimate(found, {}) == left.Left(2 * 2 * 30.0, [])


def test_a_cluster_runs_as_many_jobs_at_once_as_snakemake_may_submit(estimate, tmp_path):
    done = [Job("score_00000", "done", [attempt("done", NOW - 50, 40.0)])]
    waiting = [Job(f"score_{i:05d}", "waiting", []) for i in range(1, 21)]
    found = status(tmp_path, {"score": ([], [*done, *waiting])}, 10, "slurm")
    assert estimate(found, {}).seconds == 80.0


def test_nothing_is_told_of_a_run_that_is_done_or_has_left_no_configuration(estimate, tmp_path):
    done = [Job("a", "done", [attempt("done", NOW - 90, 10.0)])]
    found = status(tmp_path, {"a": ([], done)}, 1)
    assert estimate(found, {}) is None
    found = status(tmp_path, {"a": ([], [Job("a", "waiting", [])])}, 1)
    del found.plan["config"]
    assert estimate(found, {}) is None


def test_ten_thousand_jobs_are_played_in_a_moment(estimate, tmp_path):
    done = [Job("score_00000", "done", [attempt("done", NOW - 50, 40.0)])]
    waiting = [Job(f"score_{i:05d}", "waiting", []) for i in range(1, 10_001)]
    found = status(tmp_path, {"score": ([], [*done, *waiting])}, 100)
    assert estimate(found, {}).seconds == 4000.0


def test_the_time_left_of_a_finished_run_is_told_from_its_work_at_every_moment(finished):
    """How good it is on a run of minutes, benchmarks/left.py tells."""
    run = finished / "results/tiny"
    attempts = replay.records(run)
    ended = sorted(attempt["ended"] for attempt in attempts.values())
    unknown = []
    for share in (0.2, 0.5, 0.8):  # of the jobs: of the time, a loaded machine has another share
        now = ended[int(share * len(ended))]
        told = Estimator(run).left(replay.at(run, attempts, now))
        assert told.seconds > 0 or share == 0.2  # nothing that waits is of a kind that has ended
        unknown.append(len(told.unknown))
    assert unknown == sorted(unknown, reverse=True)
    assert "evaluate_random" not in told.unknown
