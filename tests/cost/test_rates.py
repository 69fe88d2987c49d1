"""Rates: what a run's records and a file of kernels say, and what they do not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import attempts
from groupmates.cost import rates
from groupmates.cost.jobs import Phase
from groupmates.errors import UserError


def attempt(stage: str, seconds: float, phases: list[tuple[str, int, int, float]], **more) -> dict:
    """Of a job that ended well; phases are (unit, done, resumed, seconds)."""
    made = [attempts.work(d, d, s, r, u) for u, d, r, s in phases]
    given = {"stage": stage, "peak_rss_bytes": 500, "phases": made} | more
    return attempts.attempt(seconds=seconds, **given)


def write_run(folder: Path, tried: list[dict], work: dict) -> Path:
    """A run folder with these records, and the plan that says how large their work is."""
    (folder / "logs/deep").mkdir(parents=True)
    for number, one in enumerate(tried):
        (folder / f"logs/deep/{number}.json").write_text(json.dumps({"attempts": [one]}))
    stages = {
        stage: {"work": units, "host_data_bytes": 100, "gpu_data_bytes": 0}
        for stage, units in work.items()
    }
    (folder / "plan.json").write_text(json.dumps({"stages": stages}))
    return folder


WORK = {"probe": {"steps": {"units": 40.0, "size": 4000.0}}}  # 100 a step


def test_a_rate_is_the_work_of_a_phase_per_second_and_what_is_beside_it_is_the_start(tmp_path):
    run = write_run(tmp_path, [attempt("probe", 13.0, [("steps", 20, 0, 10.0)])], WORK)
    source = rates.of_run(run)
    assert source.phases["probe", "steps"] == 200.0
    assert source.starts["probe"] == 3.0
    assert source.seconds("probe", Phase("steps", 1, {"train": 500.0})) == 2.5


def test_steps_of_an_earlier_attempt_count_into_no_rate(tmp_path):
    run = write_run(tmp_path, [attempt("probe", 10.0, [("steps", 20, 15, 10.0)])], WORK)
    assert rates.of_run(run).phases["probe", "steps"] == 50.0


def test_jobs_of_a_stage_share_one_rate_weighed_by_their_work(tmp_path):
    jobs = [
        attempt("probe", 10.0, [("steps", 10, 0, 10.0)]),
        attempt("probe", 10.0, [("steps", 30, 0, 10.0)]),
    ]
    assert rates.of_run(write_run(tmp_path, jobs, WORK)).phases["probe", "steps"] == 200.0


def test_a_record_from_before_gpus_were_looked_at_gives_rates_of_a_processor(tmp_path):
    earlier = attempt("probe", 13.0, [("steps", 20, 0, 10.0)])
    del earlier["gpu_peak_bytes"]
    source = rates.of_run(write_run(tmp_path, [earlier], WORK))
    assert (source.gpu, source.on_gpu["probe"]) == (False, False)


def test_failed_and_running_jobs_give_no_rate(tmp_path):
    jobs = [
        attempt("probe", 10.0, [("steps", 10, 0, 10.0)], state=state)
        for state in ("failed", "killed", "stopped", "running")
    ]
    assert rates.of_run(write_run(tmp_path, jobs, WORK)) is None


def test_a_run_without_a_plan_is_no_source(tmp_path):
    run = write_run(tmp_path, [attempt("probe", 10.0, [])], WORK)
    (run / "plan.json").unlink()
    assert rates.of_run(run) is None


def test_memory_beside_the_data_and_the_device_are_known_from_the_records(tmp_path):
    job = attempt("probe", 10.0, [], gpu_peak_bytes=900, device="NVIDIA Something")
    source = rates.of_run(write_run(tmp_path, [job], WORK))
    assert source.gpu and source.on_gpu["probe"]
    assert source.machine == "GPU NVIDIA Something, 2 cores"
    assert (source.host_bytes["probe"], source.gpu_bytes["probe"]) == (400, 900)


def test_the_gap_is_from_the_latest_end_to_the_next_start():
    def between(start: float, end: float) -> dict:
        return {"started": start, "ended": end}

    chain = [between(0, 10), between(2, 12), between(13, 20), between(23, 30)]
    assert rates.gap(chain) == 2.0  # of 13 - 12 and 23 - 20
    assert rates.gap([between(0, 10)]) is None


FILE = {
    "machine": "a machine",
    "gpu": True,
    "date": "2026-11-24",
    "basis": "assumed",
    "rates": {
        "train": {"per_second": 10.0, "basis": "arithmetic"},
        "forward": {"per_second": 40.0, "basis": "arithmetic"},
        "start": {"per_second": 0.5, "basis": "guess"},
    },
}


def written(folder: Path, body: object) -> Path:
    path = folder / "rates.json"
    path.write_text(json.dumps(body))
    return path


def test_a_file_gives_rates_of_kernels_whose_times_add_up(tmp_path):
    source = rates.of_file(written(tmp_path, FILE))
    assert source.seconds("probe", Phase("steps", 1, {"train": 20.0, "forward": 20.0})) == 2.5
    assert source.start("any stage") == 2.0
    assert source.basis == "assumed"


def test_a_kernel_without_a_rate_makes_the_phase_unknown(tmp_path):
    source = rates.of_file(written(tmp_path, FILE))
    assert source.seconds("score", Phase("documents", 1, {"forward": 1.0, "tokenise": 1.0})) is None


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rates": {"trian": {"per_second": 1, "basis": ""}}}, "unknown kernels ['trian']"),
        (
            {"rates": {"train": {"per_second": 0, "basis": ""}}},
            "a rate of train that is not above 0",
        ),
        ({"rates": []}, "no attribute 'keys'"),
        ({"rates": {"train": {"basis": ""}}}, "per_second"),
        ({"basis": "sure"}, "sure"),
    ],
)
def test_a_wrong_file_is_told_with_what_belongs_there(change, told, tmp_path):
    with pytest.raises(UserError) as error:
        rates.of_file(written(tmp_path, FILE | change))
    assert told in error.value.found
    assert "plan.rates" in error.value.where


def test_without_names_the_calibration_of_the_run_counts_and_never_the_run_itself(tmp_path):
    job = attempt("probe", 10.0, [("steps", 10, 0, 10.0)])
    write_run(tmp_path / "mine", [job], WORK)
    assert rates.sources(None, tmp_path / "mine") == []
    write_run(tmp_path / "mine-calibration", [job], WORK)
    (source,) = rates.sources(None, tmp_path / "mine")
    assert source.name.endswith("mine-calibration")


def test_a_named_folder_without_records_is_told(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="make calibrate"):
        rates.sources([str(tmp_path / "empty")], tmp_path / "mine")
