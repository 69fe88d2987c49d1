"""The frontier page of a made-up run, and of several: what it is made of, and what it says."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

import attempts
from frontiers import config, predictions, record, training
from groupmates.errors import UserError
from groupmates.records import campaign
from groupmates.report import frontier_across
from groupmates.report.data import pretrained
from groupmates.settings.per_stage import FrontierSettings
from groupmates.stages import frontier

METHODS = ["group_mates", "random"]
LOSSES = {"group_mates": [5.0, 2.5, 2.0], "random": [5.0, 4.0, 3.0]}


def made(folder: Path, methods: list[str] = METHODS, tasks: bool = False, **changed):
    """A run of one stage with two seeds: a core-hour a training, 0.25 of which random's selection."""
    run, settings = folder / "one", config("one", methods, **changed)
    paths = []
    for method in methods:
        for seed in (0, 1):
            losses = [nats + 0.1 * seed for nats in LOSSES[method]]
            paths += training(run, settings, method, seed, losses)
            record(run, "pretrain_model", 2.0, method=method, seed=str(seed))
            if tasks:
                right = [True, True, method == "group_mates", seed == 0]
                bits = [1.0, 1.0, 2.0 - (method == "group_mates"), 2.0]
                paths.append(predictions(run, f"{method}_{seed}", right, bits))
        record(run, "take", 0.125, method=method)
    for rule in ("check", "score"):
        record(run, rule, 0.125, shard="00000")
    record(run, "fit", 0.5, model="final")
    record(run, "probe", 3.0, round="random", part="00000")
    record(run, "evaluate", 4.0, method="random", seed="0")
    record(run, "base", 9.0)
    return run, settings, paths


def page(run: Path, settings, paths: list[Path]) -> tuple[str, list[dict[str, str]]]:
    output = run / "report/frontier.html"
    frontier.run(FrontierSettings.of(settings), inputs=paths, output=output)
    with output.with_suffix(".csv").open() as file:
        return output.read_text().replace("\u00a0", " "), list(csv.DictReader(file))


def found(run: Path, settings, paths: list[Path]) -> pretrained.Pretrained:
    return pretrained.of_run(run, settings, FrontierSettings.of(settings).charged, paths)


def test_a_selection_pays_for_the_jobs_it_needs_and_a_training_for_its_tokens(tmp_path):
    """With first-order labels the random round is an audit; so is what evaluates."""
    one = found(*made(tmp_path))
    spent = {m: t.selected(8000).core_hours for m, t in one.methods.items()}
    assert spent == pytest.approx({"random": 0.25, "group_mates": 0.125 * 3 + 0.5})
    assert one.methods["random"].token.times(8000).core_hours == pytest.approx(2.0)
    assert one.apart.core_hours == pytest.approx(3.0 + 4.0)
    assert one.measure == "core_hours"


def test_trainings_that_are_no_longer_asked_for_cost_the_others_nothing(tmp_path):
    run, settings, paths = made(tmp_path)
    record(run, "pretrain_model", 7.0, method="random", seed="2")
    record(run, "pretrain_model", 5.0, method="color", seed="0")
    record(run, "pretrain_model", 5.0, method="random", seed="0", line="stages/2/random/")
    one = found(run, settings, paths)
    assert one.methods["random"].token.times(8000).core_hours == pytest.approx(2.0)
    assert one.apart.core_hours == pytest.approx(3.0 + 4.0 + 7.0 + 5.0 + 5.0)


def test_from_scratch_the_probed_model_is_part_of_a_selection(tmp_path):
    one = found(*made(tmp_path, start="scratch"))
    spent = {m: t.selected(8000).core_hours for m, t in one.methods.items()}
    assert spent == pytest.approx({"random": 0.25, "group_mates": 0.125 * 3 + 0.5 + 9})


def test_stages_continue_one_curve_and_each_is_paid_for_when_it_begins(tmp_path):
    run, settings = tmp_path / "two", config("two", METHODS, seeds=1, stages=[0.5, 0.5])
    paths = []
    for method in METHODS:
        paths += training(run, settings, method, 0, [5.0, 3.0], end=4000)
        line = f"stages/2/{method}/"
        paths += training(run, settings, method, 0, [2.5, 2.0], line=line, begin=4000)
        record(run, "take", 0.5, method=method)
        record(run, "take", 0.25, method=method, line=line)
        record(run, "pretrain_model", 1.0, method=method, seed="0")
        record(run, "pretrain_model", 1.0, method=method, seed="0", line=line)
    record(run, "fit", 1.0, model="final", line="stages/2/group_mates/")
    two = found(run, settings, paths)
    tokens_P, nats_P = two.methods["random"].curves[0]
    assert tokens_P.tolist() == [0, 4000, 6000, 8000]
    assert nats_P.tolist() == [5.0, 3.0, 2.5, 2.0]
    spent = {m: [t.spent(n).core_hours for n in (4000, 8000)] for m, t in two.methods.items()}
    assert spent["random"] == pytest.approx([0.5 + 1, 0.5 + 1 + 0.25 + 1])
    assert spent["group_mates"] == pytest.approx([0.5 + 1, 0.5 + 1 + 1.25 + 1])


def test_the_page_and_its_tables_say_what_was_gained(tmp_path):
    text, rows = page(*made(tmp_path))
    assert "With 2 paired seeds and 95 % intervals, group_mates reached the final loss of" in text
    assert [row["method"] for row in rows] == ["group_mates", "random"]
    ours, other = rows
    assert float(ours["minus_nats"]) == pytest.approx(-1.0)
    # 3.0 is there after 4000 * 2 / 2.5 of 8000 tokens, in either seed.
    assert float(ours["tokens_saved"]) == pytest.approx(0.6)
    assert float(ours["compute_saved"]) == pytest.approx(1 - (0.875 + 0.8) / 2.25)
    assert (ours["other_reaches_in"], ours["compute_is_of"]) == ("0", "core_hours")
    assert (other["minus"], other["minus_nats"]) == ("", "")
    assert "not reached" in text and "Tasks by method" not in text
    assert "The model of seed 0 selects" not in text  # there is one stage


def test_the_table_of_tasks_has_paired_differences_and_their_errors(tmp_path):
    run, settings, paths = made(tmp_path, tasks=True)
    text, _ = page(run, settings, paths)
    with (run / "report/frontier-tasks.csv").open() as file:
        rows = {(row["task"], row["method"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {(t, m) for t in ("copa", "mean of 1 task") for m in METHODS}
    ours = rows["copa", "group_mates"]
    # Right, mean over seeds: 1, 1, 1, 0.5; random's 1, 1, 0, 0.5. Chance is a half.
    assert float(ours["accuracy"]) == pytest.approx(3.5 / 4)
    assert float(ours["centred"]) == pytest.approx(0.75)
    # Differences 0, 0, 1, 0: mean 1/4, deviation 1/2; centred, twice that.
    assert float(ours["centred_minus"]) == pytest.approx(0.5)
    assert float(ours["centred_minus_error"]) == pytest.approx(2 * 0.5 / 4**0.5)
    # Bits of answers of one byte: 1, 1, 1, 2 and 1, 1, 2, 2.
    assert float(ours["bits_per_byte"]) == pytest.approx(1.25)
    assert float(ours["bits_per_byte_minus"]) == pytest.approx(-0.25)
    assert float(ours["bits_per_byte_minus_error"]) == pytest.approx(0.5 / 4**0.5)
    mean = rows["mean of 1 task", "group_mates"]
    assert float(mean["centred_minus_by_seed_low"]) == pytest.approx(0.5)
    assert "Tasks by method" in text


def test_hours_of_different_devices_are_not_compared_but_operations_are(tmp_path):
    run, settings, paths = made(tmp_path)
    phases = [attempts.work(10, 10, 1.0)]
    on_gpu = {"gpu_peak_bytes": 1, "seconds": 3600.0}
    record(run, "fit", 0.5, model="final", device="H100", phases=phases, **on_gpu)
    mixed = found(run, settings, paths)
    assert mixed.measure == "flop"
    for method in METHODS:
        for seed in ("0", "1"):
            record(run, "pretrain_model", 2.0, method=method, seed=seed, device="H100", **on_gpu)
    one = found(run, settings, paths)
    assert one.measure == "gpu_hours"
    ours, other = (one.methods[m].spent(8000) for m in METHODS)
    assert (ours.gpu_hours, other.gpu_hours) == pytest.approx((2.0, 1.0))
    assert ours.flop > other.flop > 0


def test_a_run_of_one_method_has_nothing_to_compare(tmp_path):
    text, rows = page(*made(tmp_path, ["random"]))
    assert "There is no comparison" in text
    assert len(rows) == 1


def begun(run: Path, settings) -> None:
    """What snakemake writes when it starts."""
    content = {"version": campaign.VERSION, "begun": 1.0, "jobs": {}}
    content["config"] = settings.model_dump(mode="json")
    (run / "logs/campaign.json").write_text(json.dumps(content))


def two_runs(folder: Path, **changed) -> list[Path]:
    """One of one stage; one of two stages, whose group_mates ends 0.5 lower and costs an hour more."""
    run, settings, _ = made(folder)
    begun(run, settings)
    two = config("two", METHODS, stages=[0.5, 0.5], **changed)
    other = folder / "two"
    for method in METHODS:
        line = f"stages/2/{method}/"
        end = LOSSES[method][-1] - 0.5 * (method == "group_mates")
        for seed in (0, 1):
            training(other, two, method, seed, [5.0 + 0.1 * seed, 3.0 + 0.1 * seed], end=4000)
            training(other, two, method, seed, [end + 0.1 * seed], line=line, begin=4000)
            record(other, "pretrain_model", 2.0, method=method, seed=str(seed))
        record(other, "take", 0.5, method=method)
        record(other, "take", 1.0, method=method, line=line)
    begun(other, two)
    return [run, other]


def test_runs_are_paired_by_seed_with_random_and_with_the_same_method(tmp_path):
    told = frontier_across.compare(two_runs(tmp_path), tmp_path / "out").replace("\u00a0", " ")
    with (tmp_path / "out/frontier.csv").open() as file:
        rows = {(row["method"], row["minus"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {
        *(("one: random", ""), ("one: group_mates", "one: random")),
        *(("two: random", "one: random"), ("two: group_mates", "one: random")),
        ("two: group_mates", "one: group_mates"),
    }
    assert float(rows["two: group_mates", "one: group_mates"]["minus_nats"]) == pytest.approx(-0.5)
    assert "two: group_mates reached the final loss of one: group_mates with" in told
    assert "The model of seed 0 selects for all" in (tmp_path / "out/frontier.html").read_text()


def test_runs_whose_trainings_do_not_begin_alike_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"pretrain\.learning_rate: 0\.001 in"):
        frontier_across.compare(two_runs(tmp_path, learning_rate=0.1), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_without_all_of_its_models_or_with_others_is_refused(tmp_path):
    runs = two_runs(tmp_path)
    curve = runs[1] / "stages/2/random/pretrain/random/seed-1.parquet"
    whole = curve.read_bytes()
    curve.unlink()
    with pytest.raises(UserError, match="1 files missing, such as stages/2/random/"):
        frontier_across.compare(runs, tmp_path / "out")
    curve.write_bytes(whole)
    begun(runs[1], config("two", METHODS, stages=[0.5, 0.5], tokens=9000))
    with pytest.raises(UserError, match="one of other settings"):
        frontier_across.compare(runs, tmp_path / "out")
