"""What a message about a damaged artefact says to type."""

import shutil
from pathlib import Path

import pytest

from groupmates.artefacts.catalogue import target_of
from groupmates.artefacts.store import Provenance, damaged, write_folder_provenance
from groupmates.errors import UserError
from groupmates.models.checkpoint import open_base
from groupmates.models.tokenizer import load_tokenizer


@pytest.mark.parametrize(
    ("path", "target"),
    [
        ("results/mine/score/shard-00001.parquet", None),
        ("results/mine/cluster/centroids.npy", None),
        ("results/mine/fit/final/metrics.json", "results/mine/fit/final"),
        ("results/mine/fit/final/heldout.parquet", "results/mine/fit/final"),
        ("results/mine/prepare/color/losses.json", "results/mine/prepare/color"),
        ("results/mine/base/provenance.json", "results/mine/base"),
        ("results/mine/dataset/m/part-00000/part.json", "results/mine/dataset/m/part-00000"),
        ("results/mine/sample/tokenizer/tokenizer.json", "results/mine/sample/tokenizer"),
        ("elsewhere/x.parquet", None),
    ],
)
def test_a_file_in_the_folder_of_an_artefact_is_made_with_it(path, target):
    assert target_of(Path(path)) == (target or path)
    assert target_of(Path.cwd() / path) == (target or path)


def test_the_message_names_the_command_that_makes_a_damaged_file_anew(tmp_path, monkeypatch):
    """Where it was deleted after a finished run, snakemake had nothing to do."""
    monkeypatch.chdir(tmp_path)
    path = Path("results/mine/score/shard-00001.parquet")
    path.parent.mkdir(parents=True)
    path.touch()
    error = damaged(path, "a table", ValueError("torn"))
    assert f"--force {path}" in error.todo
    assert "torn" in error.found


@pytest.mark.parametrize("how", ["truncated", "deleted"])
@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("base", "model.safetensors"),
        ("base", "config.json"),
        ("base", "optimizer.safetensors"),
        ("sample/tokenizer", "tokenizer.json"),
        ("fit/final/tokenizer", "tokenizer.json"),
    ],
)
def test_a_damaged_file_in_an_artefact_s_folder_is_not_the_users(
    small_run, tmp_path, monkeypatch, folder, name, how
):
    """The advice was to correct base.checkpoint, or to copy the tokenizer's files."""
    monkeypatch.chdir(tmp_path)
    place = Path("results/mine") / folder
    target = place.parent if folder.startswith("fit") else place
    shutil.copytree(small_run.base if folder == "base" else small_run.tokenizer, place)
    if target != place:
        (place / "provenance.json").unlink()
        write_folder_provenance(target, "fit", Provenance("fit", {}))
    content = (place / name).read_bytes()
    (place / name).unlink()
    if how == "truncated":
        (place / name).write_bytes(content[:100])
    with pytest.raises(UserError) as caught:
        open_base(place) if folder == "base" else load_tokenizer(place)
    assert f"--force {target}\n" in caught.value.todo
    assert "base.checkpoint" not in caught.value.todo
