"""What a change of the configuration makes anew, and what it leaves as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import zstandard

import checkout
from checkout import lines
from groupmates import __main__ as cli
from in_process import goes_on, planned


@pytest.mark.parametrize("format", ["parquet", "open_lm", "megatron"])
def test_another_format_of_the_dataset_is_written_and_nothing_else_done_again(
    format: str, finished: Path, tmp_path: Path
) -> None:
    changed = {"format": format, "shards_per_job": 2, "open_lm": {"window_tokens": 65}}
    folder = checkout.copy(finished, tmp_path, {"materialise": changed})
    writing = {"materialise": 6} if format == "parquet" else {"tokenise": 4}
    assert planned(folder) == writing | {"assemble": 2}
    root = goes_on(folder)
    assert not planned(folder)
    for method in ("group_mates", "random"):
        dataset = root / "dataset" / method
        card = json.loads(dataset.with_suffix(".json").read_text())
        tables = (root / "select" / method).glob("*.parquet")
        selected = sum(pq.read_metadata(path).num_rows for path in tables)
        assert (card["format"], card["documents"]) == (format, selected)
        names = sorted(str(path.relative_to(dataset)) for path in dataset.rglob("*.*"))
        assert not [name for name in names if name.endswith(".zst")]
        if format == "parquet":
            shards = [f"shard-{i:05d}.jsonl.zst.parquet" for i in range(7)]
            assert names == ["README.md", *shards]
        elif format == "megatron":
            assert names == ["README.md", "documents.parquet", "tokens.bin", "tokens.idx"]
        else:
            assert "manifest.jsonl" in names and "part-00001/00000000.tar" in names


@pytest.mark.parametrize(
    ("shards", "change"),
    [
        (1, {"pool": {"files_per_shard": 7}, "score": {"batch_tokens": 1000}}),
        (2, {"pool": {"files_per_shard": 4}, "select": {"partitions": 2}}),
        (7, {"pool": {"files_per_shard": 1}, "score": {"batch_tokens": 100_000}}),
    ],
)
def test_shards_partitions_and_batch_sizes_change_nothing_that_is_selected(
    shards: int, change: dict, finished: Path, tmp_path: Path
) -> None:
    places = ("doc_id", "source_row", "n_tokens", "cluster", "rank")

    def selected(root: Path, method: str) -> tuple[int, list]:
        tables = sorted(root.glob(f"select/{method}/shard-*.parquet"))
        rows = [row for t in tables for row in pq.read_table(t, columns=list(places)).to_pylist()]
        return len(tables), rows

    here = goes_on(checkout.copy(finished, tmp_path, change), "--until", "materialise")
    for method in ("group_mates", "random"):
        expected = selected(finished / "results/tiny", method)[1]
        assert selected(here, method) == (shards, expected)


def test_a_file_that_is_added_to_the_pool_is_scored_and_nothing_is_probed_again(
    finished: Path, tmp_path: Path
) -> None:
    old = [f"results/tiny/corpus/shard-{i:05d}.jsonl.zst" for i in range(7)]
    change = {"pool": {"paths": old, "files_per_shard": 1}, "sample": {"paths": old}}
    folder = checkout.copy(finished, tmp_path, change)
    goes_on(folder, "--until", "take")
    rows = [json.dumps({"url": f"new-{i}", "text": f"A new text, number {i}."}) for i in range(20)]
    new = folder / "results/tiny/corpus/shard-00007.jsonl.zst"
    new.write_bytes(zstandard.compress("\n".join(rows).encode()))
    change["pool"]["paths"] = [*old, str(new.relative_to(folder))]
    checkout.configure(folder, change)
    jobs = planned(folder, "--until", "take")
    assert (jobs["check"], jobs["score"]) == (1, 1)
    assert not {"sample", "base", "probe", "fit", "reference", "plan_random"} & set(jobs)
    root = goes_on(folder, "--until", "take")
    tables = [pq.read_metadata(p).num_rows for p in root.glob("score/*.parquet")]
    assert (len(tables), sum(tables)) == (8, 370)


def test_first_order_labels_take_the_place_of_rollouts_up_to_the_report(
    finished: Path, tmp_path: Path
) -> None:
    folder = checkout.copy(finished, tmp_path, {"probe": {"labels": "first_order"}})
    root = goes_on(folder)
    assert not planned(folder)
    metrics = json.loads((root / "fit/final/metrics.json").read_text())
    assert metrics["rollouts"]["heldout"] == 4  # all that are probed, for these figures
    labels = [pq.read_metadata(p).num_rows for p in root.glob("probe/first_order/*.parquet")]
    assert (len(labels), sum(labels)) == (2, 60)
    assert "first-order labels themselves reach" in (root / "report.html").read_text()


@pytest.mark.parametrize(
    "change",
    [{"probe": {"groups": {"sets": 0}}}, {"select": {"methods": ["random"]}}],
    ids=["no sets", "no method that goes by groups"],
)
def test_sets_are_probed_only_where_they_are_asked_for(change: dict, tmp_path: Path) -> None:
    folder = checkout.make(tmp_path)
    stages = {"plan_groups", "probe_groups", "groups"}
    assert stages <= planned(folder).keys()
    without = planned(checkout.configure(folder, change))
    assert without["report"] == 1
    assert not stages & without.keys()


def test_nothing_semantic_is_made_where_no_method_asks_for_it(finished: Path) -> None:
    assert not planned(finished, "--forceall").keys() & {"fit_semantic", "embed"}
    assert not list((finished / "results/tiny").glob("*/semantic"))


def test_a_rule_trains_in_as_many_processes_as_the_profile_says(
    finished: Path, tmp_path: Path
) -> None:
    two = ("--set-resources", "fit:tasks_per_node=2")
    folder = checkout.copy(finished, tmp_path)
    root = folder / "results/tiny"
    metrics = json.loads((root / "fit/initial/metrics.json").read_text())
    shutil.rmtree(root / "fit/initial")
    run = checkout.snakemake(folder, "-p", *two, "--", "results/tiny/fit/initial")
    assert run.returncode == 0, run.stdout[-4000:]
    assert "workflow/run fit --processes 2" in run.stdout
    found = json.loads((root / "fit/initial/metrics.json").read_text())
    assert found["labels"] == metrics["labels"]
    assert not planned(folder, "--", "results/tiny/fit/initial")


def test_documents_with_words_of_an_evaluation_example_are_left_out_and_others_taken(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def selected(root: Path) -> list[str]:
        tables = sorted(root.glob("select/group_mates/*.parquet"))
        return [
            i for t in tables for i in pq.read_table(t, columns=["doc_id"])["doc_id"].to_pylist()
        ]

    before = selected(finished / "results/tiny")
    corpus = sorted((finished / "results/tiny/corpus").glob("shard-*"))
    texts = {
        f"corpus/{file.name}#{row}": json.loads(line)["text"]
        for file in corpus
        for row, line in enumerate(lines(file))
    }
    doc_id = next(i for i in before if len(texts[i].split()) > 30)
    (tmp_path / "examples.jsonl").write_text(json.dumps({"text": texts[doc_id]}) + "\n")
    named = {"decontaminate": {"examples": [str(tmp_path / "examples.jsonl")]}}
    folder = checkout.copy(finished, tmp_path, named)
    looking = {"decontaminate_examples": 1, "decontaminate": 3}
    taking = {
        "take": 2,
        "materialise": 6,
        "assemble": 2,
        "evaluate": 4,
        "summarise": 1,
        "report": 1,
    }
    assert planned(folder) == looking | taking
    root = goes_on(folder, "--until", "take")
    assert planned(folder) == {rule: jobs for rule, jobs in taking.items() if rule != "take"}
    found = {
        row["doc_id"]
        for t in root.glob("decontaminate/shard-*.parquet")
        for row in pq.read_table(t).to_pylist()
    }
    after = selected(root)
    assert doc_id in found and not found & set(after)
    assert len(after) == round((350 - len(found)) / 4)
    cli.main(["explain", str(root), doc_id])
    told = capsys.readouterr().out
    assert "not selected" in told and "left out" in told and "example 0 of" in told
    checkout.configure(folder, {"decontaminate": named["decontaminate"] | {"drop": False}})
    assert planned(folder) == taking
