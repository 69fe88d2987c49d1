"""Runs of different seeds merged: numbers by hand, and what is refused."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

import checkout
from groupmates import __main__ as cli
from groupmates.artefacts.store import Provenance, write_json
from groupmates.errors import UserError
from groupmates.records import campaign
from groupmates.report.across_runs import compare
from groupmates.settings.config import load

PLAIN = yaml.safe_load((checkout.REPOSITORY / "config.yaml").read_text())
METHODS = ["group_mates", "blunt", "mates", "random"]
VARIANTS = {"blunt": {"method": "group_mates", "sharpness": 16}}
HALF = 4.302653 * 0.1 / 3**0.5  # Student's t of 2 degrees of freedom, deviation 0.1, three runs

# Loss by method and run. Minus random: -0.5, -0.4, -0.6; 0.15, -0.05, 0.05; -0.4, -0.3, -0.5.
LOSSES = {
    "group_mates": [4.5, 4.7, 4.4],
    "blunt": [5.15, 5.05, 5.05],
    "mates": [4.6, 4.8, 4.5],
    "random": [5.0, 5.1, 5.0],
}


def make_run(
    folder: Path,
    seed: int,
    losses: Mapping[str, float],
    change: dict[str, Any] | None = None,
    jobs: dict[str, Any] | None = None,
) -> Path:
    """A run as `compare` reads it: configuration and summary."""
    ours = {"seed": seed, "run": folder.name, "select": {"methods": list(losses)}}
    ours["select"]["variants"] = VARIANTS
    settings = load(checkout.merged(checkout.merged(PLAIN, ours), change or {}))
    body = {
        "methods": {
            m: {"losses_nats": [loss - 0.25, loss + 0.25], "mean_nats": loss}
            for m, loss in losses.items()
        },
        "baseline": "random",
        "seeds": 2,
        "pool_documents": 1000,
    }
    write_json(
        folder / "evaluate/summary.json", "summary", Provenance("summarise", {"seed": seed}), body
    )
    (folder / "logs").mkdir()
    begun = {
        "version": campaign.VERSION,
        "begun": 1000.0,
        "config": settings.model_dump(mode="json"),
        "jobs": {"summarise": {"needed": True, "finished": True}} if jobs is None else jobs,
    }
    (folder / "logs/campaign.json").write_text(json.dumps(begun))
    return folder


def runs(folder: Path, losses: Mapping[str, list[float]] = LOSSES, **more: Any) -> list[Path]:
    count = len(next(iter(losses.values())))
    return [
        make_run(folder / f"run-{i}", i, {m: of[i] for m, of in losses.items()}, **more)
        for i in range(count)
    ]


def written(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / "comparison.csv").open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_each_run_counts_once_and_the_interval_is_over_runs(tmp_path):
    compare(runs(tmp_path), tmp_path / "out")
    found = written(tmp_path / "out")
    assert list(found) == ["group_mates", "mates", "random", "blunt"]  # best first
    ours = {k: float(v) for k, v in found["group_mates"].items() if k != "method" and v}
    expected = {"runs": 3, "loss_nats": 13.6 / 3, "runs_below_random": 3}
    expected |= {"minus_random_nats": -0.5}
    expected |= {"minus_random_low_nats": -0.5 - HALF, "minus_random_high_nats": -0.5 + HALF}
    expected |= {f"seed_{i}_minus_random_nats": d for i, d in enumerate([-0.5, -0.4, -0.6])}
    # The same 0.1 nats below mates in every run: no spread is left.
    expected |= {f"minus_mates_{part}nats": -0.1 for part in ("", "low_", "high_")}
    assert ours == pytest.approx(expected, abs=1e-6)
    assert float(found["mates"]["minus_group_mates_nats"]) == pytest.approx(0.1)
    assert found["blunt"]["runs_below_random"] == "1"
    assert found["random"]["minus_random_nats"] == ""
    low, high = (float(found["blunt"][f"minus_random_{end}_nats"]) for end in ("low", "high"))
    assert (low, high) == pytest.approx((0.05 - HALF, 0.05 + HALF), abs=1e-6)


def test_the_sentence_says_what_is_shown_and_what_is_not(tmp_path):
    losses = LOSSES | {"mates": [4.6, 4.6, 4.5]}  # 0.1, -0.1, 0.1 nats above group_mates
    told = compare(runs(tmp_path, losses), tmp_path / "out").replace("\u00a0", " ")
    sentence, place = told.splitlines()
    # Mean -0.1 / 3, deviation 0.11547, so that the half is 4.302653 * 0.11547 / 3 ** 0.5 = 0.28684.
    assert sentence == (
        "Over 3 runs of different seeds group_mates has the lowest held-out loss of 4 methods, but is "
        "not shown to be better than mates (−0.320 to 0.254 nats); it is shown to be better than "
        "random, blunt; its loss is 0.500 nats below random (−0.748 to −0.252), below it in 3 of 3 "
        "runs (95 % intervals over runs, each for one pair of methods by itself)."
    )
    assert place == f"{tmp_path / 'out'}/comparison.csv, .md and .svg"


def test_markdown_has_every_run_and_says_what_the_figures_are(tmp_path):
    compare(runs(tmp_path), tmp_path / "out")
    text = (tmp_path / "out/comparison.md").read_text()
    lines = text.splitlines()
    assert "run-0 (seed 0) | run-1 (seed 1) | run-2 (seed 2) | minus mates |" in lines[0]
    cells = [c.strip() for c in lines[2].strip("|").split("|")]
    assert cells[:7] == [
        *("group_mates", "−0.500", "−0.748 to −0.252", "3 of 3"),
        *("−0.500", "−0.400", "−0.600"),
    ]
    assert "n = 3" in text and "mean over 2 training seeds" in text
    assert "the built-in corpus, the base model, the sample" in text
    assert {line.count("|") for line in lines[:6]} == {lines[0].count("|")}


def test_the_figure_has_a_dot_for_every_run(tmp_path):
    folders = runs(tmp_path)
    compare(folders, tmp_path / "three")
    compare(folders[:2], tmp_path / "two")
    texts = {n: (tmp_path / n / "comparison.svg").read_text() for n in ("three", "two")}
    dots = {n: text.count("fill-opacity: 0.7") for n, text in texts.items()}
    assert dots == {"three": 9, "two": 6}  # of three methods beside random
    text = texts["three"]
    assert all(method in text for method in ("group_mates", "blunt", "mates", "single runs"))
    assert text.startswith("<svg xmlns=") and "over examples" not in text


def test_methods_that_some_runs_lack_are_left_out_and_named(tmp_path):
    first, second = runs(tmp_path, {m: v[:2] for m, v in LOSSES.items()})
    fewer = {m: v[2] for m, v in LOSSES.items() if m != "mates"}
    third = make_run(tmp_path / "third", 7, fewer)
    compare([first, second, third], tmp_path / "out")
    assert list(written(tmp_path / "out")) == ["group_mates", "random", "blunt"]
    text = (tmp_path / "out/comparison.md").read_text()
    assert "Not in all runs, and left out: mates." in text
    assert "minus group_mates" in text and "minus mates" not in text


def test_settings_that_no_loss_depends_on_may_differ(tmp_path):
    losses = {m: of[0] for m, of in LOSSES.items()}
    fewer = {m: losses[m] for m in ("group_mates", "random")}
    first = make_run(tmp_path / "a", 0, fewer)
    change = {
        "report": {"map_points": 7},
        "plan": {"gpus": 3},
        "materialise": {"format": "parquet"},
    }
    change["select"] = {"variants": {"blunt": {"method": "group_mates", "sharpness": 64}}}
    second = make_run(tmp_path / "b", 1, losses, change)
    compare([first, second], tmp_path / "out")  # blunt is not compared
    assert list(written(tmp_path / "out")) == ["group_mates", "random"]


def refused(folders: list[Path], output: Path) -> UserError:
    with pytest.raises(UserError) as caught:
        compare(folders, output)
    assert not output.exists()
    return caught.value


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"fit": {"relation": {"sharpness": 3}}},
            "fit.relation.sharpness: 16.0 in {0}, 3.0 in {1}",
        ),
        ({"evaluate": {"seeds": 9}}, "evaluate.seeds: 3 in {0}, 9 in {1}"),
        (
            {"select": {"variants": {"blunt": {"method": "group_mates", "sharpness": 64}}}},
            "select.variants.blunt.sharpness: 16 in {0}, 64 in {1}",
        ),
    ],
)
def test_runs_of_different_settings_are_refused_with_the_key(tmp_path, change, told):
    losses = {m: of[0] for m, of in LOSSES.items()}
    folders = [make_run(tmp_path / "a", 0, losses), make_run(tmp_path / "b", 1, losses, change)]
    assert refused(folders, tmp_path / "out").found == told.format(*folders)


def test_pools_of_files_must_have_the_same_documents(tmp_path):
    change = {"pool": {"paths": ["pool/*.jsonl"]}}
    folders = runs(tmp_path, change=change)
    compare(folders, tmp_path / "same")
    path = folders[1] / "evaluate/summary.json"
    path.write_text(path.read_text().replace('"pool_documents": 1000', '"pool_documents": 1001'))
    assert "documents in the pool: 1000 in" in refused(folders, tmp_path / "out").found


def test_one_run_or_a_seed_twice_is_refused(tmp_path):
    folders = runs(tmp_path)
    assert refused(folders[:1], tmp_path / "out").expected == "at least two runs"
    again = make_run(tmp_path / "again", 1, {m: of[1] for m, of in LOSSES.items()})
    error = refused([*folders, again], tmp_path / "out")
    assert error.found == "seed 1 twice"
    assert error.where == f"{folders[1]}, {again}"


def test_without_two_common_methods_nothing_is_compared(tmp_path):
    first = make_run(tmp_path / "a", 0, {"group_mates": 4.0, "random": 5.0})
    second = make_run(tmp_path / "b", 1, {"mates": 4.0, "random": 5.0})
    error = refused([first, second], tmp_path / "out")
    assert f"{first}: group_mates, random" in error.found
    assert "random and at least one other" in error.expected


def test_a_run_without_a_summary_is_refused(tmp_path):
    folders = runs(tmp_path)
    (folders[2] / "evaluate/summary.json").unlink()
    error = refused(folders, tmp_path / "out")
    assert error.where == str(folders[2])
    assert "--config run=run-2" in error.todo


def test_a_summary_that_snakemake_had_yet_to_remake_is_refused(tmp_path):
    folders = runs(tmp_path, jobs={"summarise": {"needed": True}})
    assert "was to make anew" in refused(folders, tmp_path / "out").found
    # Snakemake was killed, and the job was through: its record says so, if it is of that time.
    for folder in folders:
        record = folder / "logs/summarise.json"
        record.write_text(json.dumps({"attempts": [{"state": "done"}]}))
        os.utime(record, (999, 999))
    assert "was to make anew" in refused(folders, tmp_path / "out").found
    for folder in folders:
        os.utime(folder / "logs/summarise.json", (1001, 1001))
    compare(folders, tmp_path / "out")


def test_a_summary_of_another_seed_than_the_configuration_is_refused(tmp_path):
    folders = runs(tmp_path)
    path = folders[0] / "evaluate/summary.json"
    path.write_text(path.read_text().replace('"seed": 0', '"seed": 5'))
    assert refused(folders, tmp_path / "out").found == "one of seed 5"


def test_without_the_configuration_a_run_is_refused(tmp_path):
    folders = runs(tmp_path)
    (folders[1] / "logs/campaign.json").unlink()
    assert refused(folders, tmp_path / "out").where.endswith("run-1/logs/campaign.json")


def test_a_runs_own_comparison_is_not_written_over(tmp_path):
    folders = runs(tmp_path)
    with pytest.raises(UserError, match="a folder outside the runs"):
        compare(folders, folders[1] / "report")
    assert not (folders[1] / "report").exists()


def test_the_command_writes_and_tells_and_mistakes_end_with_status_2(tmp_path, capsys):
    folders = [str(folder) for folder in runs(tmp_path)]
    assert cli.main(["compare", *folders, "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("Over 3 runs of different seeds group_mates has")
    assert (tmp_path / "out/comparison.md").exists()
    assert cli.main(["compare", folders[0], "--output", str(tmp_path / "none")]) == 2
    assert "error in compare\nexpected: at least two runs" in capsys.readouterr().err
