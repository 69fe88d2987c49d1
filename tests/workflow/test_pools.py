"""Pools of every kind, and those that are no pool."""

from __future__ import annotations

import gzip
import json
import os
import random
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

import checkout
from checkout import lines
from in_process import goes_on, planned, snakemake

DATA = Path(os.environ.get("GROUPMATES_DATA", checkout.REPOSITORY / "data"))


@pytest.mark.long
@pytest.mark.skipif(not DATA.exists(), reason=f"no mixed pool in {DATA}: set GROUPMATES_DATA")
def test_a_mixed_pool_with_ids_and_two_reference_files_runs_to_its_report(tmp_path: Path) -> None:
    change = yaml.safe_load(
        (checkout.REPOSITORY / "workflow/configs/mixed-lambada.yaml").read_text()
    )
    settings = checkout.merged(
        checkout.TINY, {name: change[name] for name in ("pool", "reference")}
    )
    settings["pool"] |= {"paths": ["data/pool/shard_0000000[0-1].jsonl.zst"]}
    settings["reference"]["split"] = checkout.TINY["reference"]["split"] | {"loss_on": "all"}
    folder = checkout.make(tmp_path / "checkout", settings)
    (folder / "data").symlink_to(DATA.resolve())
    root = goes_on(folder)
    pool = {
        json.loads(line)["id"]
        for f in (DATA / "pool").glob("shard_0000000[01]*")
        for line in lines(f)
    }
    for method in ("group_mates", "random"):
        dataset = [line for f in root.glob(f"dataset/{method}/**/*.zst") for line in lines(f)]
        picked = [json.loads(line)["id"] for line in dataset]
        assert len(picked) == len(set(picked)) == round(len(pool) / 4)
        assert set(picked) <= pool
    assert (root / "report.html").stat().st_size > 10_000


def test_a_pool_of_every_kind_without_its_bad_records_runs_to_its_datasets(tmp_path: Path) -> None:
    """Lines, gzip, nested Parquet, a saved dataset and a URL; in shards by size."""
    pool = tmp_path / "pool"
    pool.mkdir()
    chance = random.Random(0)
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi") for b in ("na", "re", "so", "tu")]
    rows = [
        {"content": {"text": " ".join(chance.choices(words, k=30))}, "n": i} for i in range(200)
    ]
    parts = [[json.dumps(row) for row in rows[first : first + 40]] for first in range(0, 200, 40)]
    parts[0][3], parts[1][5] = "{broken", json.dumps({"content": {"text": " "}})
    (pool / "a.jsonl").write_text("\n".join(parts[0]))
    (pool / "b.jsonl.gz").write_bytes(gzip.compress("\n".join(parts[1]).encode()))
    pq.write_table(pa.Table.from_pylist(rows[80:120]), pool / "c.parquet")
    datasets.Dataset.from_list(rows[120:160]).save_to_disk(pool / "d", num_shards=2)
    (tmp_path / "far.jsonl.zst").write_bytes(zstandard.compress("\n".join(parts[4]).encode()))
    change = {
        "paths": ["pool/*", f"file://{tmp_path}/far.jsonl.zst"],
        "columns": {"text": "content.text", "source": None},
        "files_per_shard": None,
        "shard_mb": 0.02,
        "bad_records": "skip",
        "max_bad_share": 0.1,
    }
    folder = checkout.make(tmp_path, {**checkout.TINY, "pool": change})
    root = goes_on(folder, "--until", "assemble")
    rejects = pq.read_table(root / "check/rejects.parquet").to_pylist()
    assert [(r["source_file"], r["source_row"], r["reason"]) for r in rejects] == [
        ("pool/a.jsonl", 3, "not JSON"),
        ("pool/b.jsonl.gz", 5, "empty text"),
    ]
    shards = [pq.read_table(p) for p in sorted(root.glob("score/*.parquet"))]
    assert 1 < len(shards) < 6
    assert sum(map(len, shards)) == 198
    dataset = root / "dataset/random/pool"
    kept = [json.loads(line) for line in (dataset / "a.jsonl").read_text().splitlines()]
    kept += map(json.loads, gzip.decompress((dataset / "b.jsonl.gz").read_bytes()).splitlines())
    kept += pq.read_table(dataset / "c.parquet").to_pylist()
    for file in sorted(dataset.glob("d/*.arrow")):
        kept += datasets.Dataset.from_file(str(file)).to_list()
    (far,) = dataset.parent.rglob("far.jsonl.zst")
    kept += map(json.loads, lines(far))
    assert kept == [rows[row["n"]] for row in kept]
    assert len(kept) == round(198 / 4)
    assert not planned(folder, "--until", "assemble")


def test_bad_input_ends_with_a_message_that_says_what_to_do(tmp_path: Path) -> None:
    folder = checkout.make(tmp_path, {**checkout.TINY, "pool": {"paths": ["pool/*.jsonl"]}})
    (folder / "pool").mkdir()
    (folder / "pool/a.jsonl").write_text('{"text": "one"}\n{"texx": "two"}\n')
    run = snakemake(folder, "--until", "sample")
    assert run.returncode != 0
    for part in ("expected:", "found:", "pool/a.jsonl", "line 2", "to do:"):
        assert part in run.stdout
    assert "Traceback" not in run.stdout
    assert not list(folder.glob("results/tiny/sample/*"))


def test_an_unknown_setting_is_refused_before_anything_runs(tmp_path: Path) -> None:
    folder = checkout.make(tmp_path, {**checkout.TINY, "prob": {"shards": 3}})
    run = snakemake(folder, "-n")
    assert run.returncode != 0
    assert "prob: no such setting; the nearest is probe" in run.stdout


def test_a_dataset_with_an_empty_file_is_a_pool_again(tmp_path: Path) -> None:
    chance = random.Random(1)
    words = [f"{a}{b}" for a in ("ba", "ke", "lo", "mi") for b in ("na", "re", "so", "tu")]
    (tmp_path / "pool").mkdir()
    for name, number in {"a": 150, "b": 0, "c": 150}.items():
        rows = [{"text": " ".join(chance.choices(words, k=30)), "n": i} for i in range(number)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"pool/{name}.jsonl").write_text(text)
    first = {"pool": {"paths": ["pool/*.jsonl"], "files_per_shard": 1}}
    first |= {"select": {"budget": {"ratio": 0.5}}}
    folder = checkout.make(tmp_path, checkout.merged(checkout.TINY, first))
    root = goes_on(folder, "--until", "assemble")
    made = root / "dataset/group_mates"
    selected = [line for file in sorted(made.glob("*.jsonl")) for line in lines_of(file)]
    assert len(selected) == 150
    assert not lines_of(made / "b.jsonl")

    again = {"run": "again", "pool": {"paths": ["results/tiny/dataset/group_mates/*.jsonl"]}}
    goes_on(checkout.configure(folder, again))
    root = folder / "results/again"
    assert len(pq.read_table(root / "score/shard-00000.parquet")) == 150
    for method in ("group_mates", "random"):
        made = root / "dataset" / method
        kept = [line for file in sorted(made.glob("*.jsonl")) for line in lines_of(file)]
        assert len(kept) == 38
        assert set(kept) <= set(selected)
    assert (root / "report.html").stat().st_size > 10_000
    assert not planned(folder)


def lines_of(file: Path) -> list[str]:
    return file.read_text().splitlines()
