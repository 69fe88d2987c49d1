"""What is told of an artefact: schema, provenance, head, summary; without reading more than it must."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import scored
from groupmates import __main__ as cli
from groupmates.asking import show
from groupmates.errors import UserError
from groupmates.store import Provenance, write_json, write_table


def lines(path: Path, rows: int = 2) -> list[str]:
    return list("\n".join(show.told(path, rows)).splitlines())


def after(found: list[str], title: str) -> list[str]:
    """The lines below a title, to the next blank one."""
    start = next(i for i, line in enumerate(found) if line.startswith(title))
    end = found.index("", start) if "" in found[start:] else len(found)
    return found[start + 1 : end]


def test_a_table_is_told_with_figures_over_all_row_groups(tmp_path):
    pool = scored.pool(20)
    found = lines(scored.write_score(tmp_path / "score.parquet", pool, row_group=7))
    assert "20 rows in 3 row groups" in "\n".join(found)
    schema = dict(line.split(None, 1) for line in after(found, "schema"))
    assert schema["n_tokens"] == "int64"
    assert schema["embedding"] == "fixed_size_list<element: float>[8]"
    assert len(after(found, "head")) == 2
    assert "doc_id=f0.jsonl#0" in after(found, "head")[0]
    summary = dict(line.split(None, 1) for line in after(found, "summary"))
    tokens = pool.n_tokens
    assert summary["n_tokens"] == f"{tokens.min()} to {tokens.max()}, mean {tokens.mean():.6g}"
    assert summary["source_file"].startswith("7 different: ")
    assert summary["doc_id"] == "10 to 10 characters, mean 10"
    assert summary["embedding"] == "(lists)"


def test_numbers_that_are_none_are_counted_apart(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"a": [1.0, np.nan, 3.0], "b": [np.nan] * 3}), path)
    summary = dict(line.split(None, 1) for line in after(lines(path), "summary"))
    assert summary == {"a": "1 to 3, mean 2; 1 are no numbers", "b": "no number"}
    assert lines(path)[0] == f"{path}: no provenance of its own"


def test_an_empty_table_is_told(tmp_path):
    write_table(
        tmp_path / "c.parquet", "cluster", Provenance("cluster", {}), {"doc_id": [], "cluster": []}
    )
    found = lines(tmp_path / "c.parquet")
    assert after(found, "head") == []
    assert after(found, "summary") == ["  doc_id   no number", "  cluster  no number"]


def test_provenance_is_told_setting_by_setting_with_some_of_many_inputs(tmp_path):
    inputs = {f"score[{i}]": f"{i:064d}" for i in range(9)}
    provenance = Provenance("cluster", {"cluster": {"iterations": 5}, "seed": 3}, inputs)
    write_json(tmp_path / "c.json", "centroids", provenance, {"sizes": [1, 2, 3], "clusters": 3})
    found = lines(tmp_path / "c.json")
    assert "centroids version 1" in "\n".join(found)
    below = after(found, "provenance")
    assert "  setting   cluster.iterations: 5" in below
    assert "  setting   seed: 3" in below
    assert below[-1] == "  input     and 3 more"
    assert after(found, "schema") == ["  clusters  number", "  sizes     list of 3"]
    assert after(found, "head") == ["  clusters  3", "  sizes     [1, 2, 3]"]


def test_a_folder_is_told_with_its_files(tmp_path):
    scored.write_model(tmp_path / "model")
    found = lines(tmp_path / "model")
    assert [line.split()[1] for line in after(found, "schema")] == [
        "provenance.json",
        "relation.json",
    ]
    assert after(found, "head")[0].startswith("  relation.json: {'alpha': 0.9")


@pytest.mark.parametrize("name", ["a.parquet", "a.json"])
def test_a_damaged_file_is_told_with_what_to_do(name, tmp_path, capsys):
    (tmp_path / name).write_bytes(b"PAR1 no such thing {")
    assert cli.main(["show", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert "error in show" in told
    assert "delete" in told


def test_a_flipped_bit_in_a_page_is_told(tmp_path):
    path = scored.write_cluster(tmp_path / "c.parquet", scored.pool(300))
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 4] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match="damaged file"):
        lines(path)


def test_what_is_no_artefact_is_told(tmp_path, capsys):
    (tmp_path / "report.html").write_text("<html>")
    assert cli.main(["show", str(tmp_path / "report.html")]) == 2
    assert cli.main(["show", str(tmp_path / "absent")]) == 2
    told = capsys.readouterr().err
    assert "a .html file" in told
    assert "nothing" in told


def test_long_values_are_cut():
    assert show._short([0.5, 1.0, 2.0, 3.0, 4.0]) == "[0.5, 1, 2, … 5]"
    assert show._short("x" * 100) == "x" * 71 + "…"
    assert show._short("two\nlines") == r"two\nlines"
    assert json.loads(f'"{show._short("two")}"') == "two"
