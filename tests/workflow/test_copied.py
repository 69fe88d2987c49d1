"""A run under another name: a copy that goes on, and one that Snakemake has no record of."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path

import pytest

import checkout
from groupmates.errors import UserError
from groupmates.records import copied
from in_process import planned, snakemake

# What has the name of the run on it.
NAMED = {"assemble", "report", "all"}
BUDGET = {"select": {"budget": {"ratio": 0.3}}}


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return checkout.copy(finished, tmp_path, {"run": "again"})


def test_a_copy_makes_anew_what_other_settings_affect_and_nothing_else(folder: Path) -> None:
    with chdir(folder):
        records = copied.copy(Path("results/tiny"), Path("results/again"))
    assert records > 30
    assert set(planned(folder)) - {"total"} <= NAMED
    changed = checkout.merged({"run": "again"}, BUDGET)
    of_the_copy = set(planned(checkout.configure(folder, changed)))
    of_the_run = set(planned(checkout.configure(folder, BUDGET)))
    assert {"take", "evaluate"} <= of_the_run
    assert of_the_copy == of_the_run
    assert snakemake(checkout.configure(folder, changed), "--until", "take").returncode == 0
    assert not planned(folder, "--until", "take")


def test_a_folder_that_was_copied_or_renamed_otherwise_is_refused(folder: Path) -> None:
    shutil.copytree(folder / "results/tiny", folder / "results/again")
    shown = snakemake(folder, "-n")
    assert shown.returncode != 0
    command = "python -m groupmates copy results/tiny results/again"
    assert command in " ".join(shown.stdout.split())
    assert "Traceback" not in shown.stdout


def test_what_cannot_be_copied_is_told(folder: Path) -> None:
    with chdir(folder):
        for run, to, found in (
            ("results/none", "results/again", "none"),
            ("results/tiny", "results", "one"),
            ("profiles", "results/again", "none"),
        ):
            with pytest.raises(UserError) as caught:
                copied.copy(Path(run), Path(to))
            assert caught.value.found == found
        assert not Path("results/again").exists()


def test_long_paths_are_found_in_pieces_and_only_whole_paths_are_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = "results/a/" + "/".join(["folder" * 8] * 6)
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text("content")
    copied.RECORDS.mkdir(parents=True)
    place = copied._place(path)
    assert len(place.parts) > 3  # in pieces
    place.parent.mkdir(parents=True)
    place.write_text(f'{{"input": ["results/a/x", "my/results/a/x"], "shellcmd": "{path}"}}')
    assert copied.copy(Path("results/a"), Path("results/b")) == 1
    new = path.replace("/a/", "/b/", 1)
    assert (tmp_path / new).read_text() == "content"
    written = copied._place(new).read_text()
    assert written == f'{{"input": ["results/b/x", "my/results/a/x"], "shellcmd": "{new}"}}'
