"""What is stale by an artefact's provenance is what snakemake would run, and the other way round."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from groupmates import __main__ as cli
from groupmates.artefacts import ARTEFACTS
from groupmates.asking import show, stale
from groupmates.errors import UserError
from test_workflow import AFFECTS, PAIRED

pytestmark = pytest.mark.slow


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a finished run, read only."""
    monkeypatch.chdir(finished)
    return finished / "results/tiny"


@pytest.fixture
def copy(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return Path("results/tiny")


def stale_rules(*configfiles: str) -> set[str]:
    """Rules with stale outputs, after comparing each job's verdict with snakemake's."""
    jobs = stale.graph("all", ["settings.yaml", *configfiles])
    comparison = stale.Comparison()
    for job in jobs:
        found = [comparison.differences(other) for other in comparison.stale(job)]
        if all(output.exists() for output in job.outputs):
            assert bool(found) == job.needed, f"{job.outputs[0]}: {found} {job.reason}"
    return {job.rule for job in jobs if job.needed}


def test_nothing_of_a_finished_run_is_stale(here):
    assert stale_rules() == set()


@pytest.mark.parametrize("key", AFFECTS)
def test_a_changed_setting_makes_stale_what_snakemake_would_run_again(key, here, tmp_path):
    value, rules = AFFECTS[key]
    *sections, leaf = key.split(".")
    change: dict = {leaf: value, **PAIRED.get(key, {})}
    for section in reversed(sections):
        change = {section: change}
    (tmp_path / "change.yaml").write_text(yaml.safe_dump(change))
    assert stale_rules(str(tmp_path / "change.yaml")) == rules


def test_a_raised_version_makes_stale(here, monkeypatch):
    raised = dataclasses.replace(ARTEFACTS["cluster"], version=2)
    monkeypatch.setitem(ARTEFACTS, "cluster", raised)
    assert {"cluster", "order_group_mates", "take"} <= stale_rules()


def test_a_lost_artefact_makes_nothing_stale_that_was_made_from_it(copy):
    (copy / "sample/reference.parquet").unlink()
    assert stale_rules() == set()
    (copy / "cluster/shard-00001.parquet").unlink()
    assert stale_rules() == set()


def rewritten(path: Path) -> None:
    """Another table of the same provenance: n_tokens doubled."""
    table = pq.read_table(path)
    at = table.schema.get_field_index("n_tokens")
    doubled = pa.array(2 * table["n_tokens"].to_numpy())
    pq.write_table(table.set_column(at, table.schema.field(at), doubled), path)


def test_other_content_makes_stale_what_was_made_from_it(copy):
    rewritten(copy / "score/shard-00001.parquet")
    found = stale_rules()
    assert {"centroids", "cluster", "order_random", "take"} <= found
    assert not {"score", "fit", "check"} & found


def told(path: Path, *arguments: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.main(["show", str(path), "--configfile", "settings.yaml", *arguments]) == 0
    return capsys.readouterr().out


def test_content_that_was_put_there_under_an_old_date_is_stale_and_snakemake_does_not_see_it(
    copy, capsys
):
    score = copy / "score/shard-00001.parquet"
    before = score.stat()
    rewritten(score)
    os.utime(score, ns=(before.st_atime_ns, before.st_mtime_ns))
    shown = told(copy / "cluster/shard-00001.parquet", capsys=capsys)
    assert "stale: yes" in shown
    assert "input score, results/tiny/score/shard-00001.parquet, has other content" in shown
    assert "would leave it as it is" in shown
    assert "Delete it" in shown


def test_a_touched_input_is_not_stale_and_snakemake_s_view_is_told(copy, capsys):
    os.utime(copy / "base/.snakemake_timestamp")
    shown = told(copy / "probe/random/shard-00001.parquet", capsys=capsys)
    assert "stale: no" in shown
    assert "would make it again" in shown
    assert "--touch" in shown


def test_a_pool_file_is_read_again_only_where_it_is_newer(copy, monkeypatch):
    read = []
    true = stale.digest
    monkeypatch.setattr(stale, "digest", lambda path: read.append(Path(path)) or true(path))
    stale_rules()
    pool = [p for p in read if p.suffix == ".zst" and "shard" in p.name]
    assert pool == []
    os.utime(copy / "corpus/shard-00003.jsonl.zst")
    jobs = stale.graph("all", ["settings.yaml"])
    comparison = stale.Comparison()
    assert not any(comparison.differences(job) for job in jobs)
    assert {p.name for p in read if p.suffix == ".zst" and "shard" in p.name} == {
        "shard-00003.jsonl.zst"
    }


def test_show_names_the_setting_that_differs_and_where(here, tmp_path, capsys):
    (tmp_path / "change.yaml").write_text("fit: {training: {epochs: 3}}")
    shown = told(here / "fit/final/metrics.json", str(tmp_path / "change.yaml"), capsys=capsys)
    assert "stale: yes" in shown
    assert "  fit.training.epochs: 2 made it, 3 now" in shown
    shown = told(here / "score/shard-00000.parquet", str(tmp_path / "change.yaml"), capsys=capsys)
    assert "made from results/tiny/fit/final: fit.training.epochs: 2 made it, 3 now" in shown


@pytest.mark.parametrize(
    "name",
    [
        "accept/final.json",
        "base",
        "check/files.parquet",
        "cluster/centroids.json",
        "dataset/random/shard-00000.jsonl.zst",
        "evaluate/random/seed-0.examples.parquet",
        "evaluate/summary.json",
        "fit/final/heldout.parquet",
        "order/group_mates/part-00000.parquet",
        "probe/bootstrap/rollouts.parquet",
        "sample/tokenizer",
        "select/random/shard-00002.parquet",
    ],
)
def test_every_kind_of_artefact_is_known_not_to_be_stale(name, here):
    lines = list(show.staleness(Path("results/tiny", name), ["settings.yaml"]))
    assert lines[0].strip() == "stale: no, it is what the configuration gives"
    assert lines[1] == "snakemake: would leave it as it is"


def test_an_artefact_of_another_run_is_shown_with_the_way_to_its_configuration(here, capsys):
    path = here / "accept/final.json"
    assert cli.main(["show", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "held-out" in shown or "spearman" in shown
    assert "stale: not known" in shown
    assert "--configfile" in shown


def test_staleness_wants_the_folder_of_the_snakefile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="without a Snakefile"):
        stale.graph("all", [])


def test_an_invalid_configuration_is_told(here, tmp_path):
    (tmp_path / "wrong.yaml").write_text("prob: {shards: 3}")
    with pytest.raises(UserError, match="prob: no such setting"):
        stale.graph("all", [str(tmp_path / "wrong.yaml")])


def test_digests_are_of_the_same_kind_as_those_that_stages_record(here):
    """A digest that were never compared would never differ."""
    jobs = stale.graph("all", ["settings.yaml"])
    compared = set()
    for job in jobs:
        for output in job.outputs:
            page = output.suffix == ".html"  # of which the settings alone are compared
            record = stale.provenance(output) if output.exists() and not page else None
            files = stale._input_files(record["inputs"], job.options) if record else None
            if files is not None:
                assert files.keys() == record["inputs"].keys(), output
                compared.add(job.rule)
    made_from_files = {job.rule for job in jobs} - {"corpus", "materialise", "report"}
    assert compared == made_from_files
    assert np.all([len(job.outputs) for job in jobs])
