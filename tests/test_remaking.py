"""What a message about a damaged artefact says to type."""

from pathlib import Path

import pytest

from groupmates.artefacts.catalogue import target_of
from groupmates.artefacts.store import damaged


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
