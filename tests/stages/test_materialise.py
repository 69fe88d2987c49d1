"""The dataset: the selected rows of each pool file, unchanged."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from groupmates.config import MaterialiseSettings
from groupmates.errors import UserError
from groupmates.stages import materialise
from groupmates.store import Provenance, write_table

# No line has an id: rows are found by file and number alone.
SETTINGS = MaterialiseSettings()
LINES = [b'{"text":  "document %d"}\n' % i for i in range(10)]


def selection_of(folder: Path, chosen: list[tuple[str, int]]) -> Path:
    path, n = folder / "select.parquet", len(chosen)
    columns = {
        "doc_id": [f"{name}#{row}" for name, row in chosen],
        "source_file": [name for name, _ in chosen],
        "source_row": [row for _, row in chosen],
        "n_tokens": [5] * n,
        "cluster": [0] * n,
        "rank": list(range(n)),
        "individual_influence": [0.0] * n,
        "group_influence": [0.0] * n,
    }
    write_table(path, "select", Provenance("select", {}), columns)
    return path


def materialised(root: Path, name: str, selection: Path) -> Path:
    output = root.parent / "dataset" / name
    materialise.run(SETTINGS, pool=root / name, root=root, selection=selection, output=output)
    return output


@pytest.fixture
def root(tmp_path) -> Path:
    folder = tmp_path / "pool"
    (folder / "web").mkdir(parents=True)
    (folder / "web" / "a.jsonl").write_bytes(b"".join(LINES))
    (folder / "a.jsonl").write_bytes(b"".join(LINES))
    content = zstandard.ZstdCompressor().compress(b"".join(LINES))
    (folder / "b.jsonl.zst").write_bytes(content)
    pq.write_table(pa.table({"text": [f"document {i}" for i in range(10)]}), folder / "c.parquet")
    return folder


def test_each_file_of_a_selection_gets_its_own_rows(root, tmp_path):
    chosen = [("a.jsonl", 3), ("b.jsonl.zst", 0), ("b.jsonl.zst", 9), ("c.parquet", 1)]
    selection = selection_of(tmp_path, [*chosen, ("web/a.jsonl", 5), ("web/a.jsonl", 6)])
    assert materialised(root, "a.jsonl", selection).read_bytes() == LINES[3]
    assert materialised(root, "web/a.jsonl", selection).read_bytes() == LINES[5] + LINES[6]
    b = materialised(root, "b.jsonl.zst", selection).read_bytes()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(b) == LINES[0] + LINES[9]
    c = pq.read_table(materialised(root, "c.parquet", selection))
    assert c.to_pylist() == [{"text": "document 1"}]


def test_relative_paths_mean_the_same_files(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root)
    selection = selection_of(tmp_path, [("web/a.jsonl", 2)])
    output = tmp_path / "dataset.jsonl"
    materialise.run(
        SETTINGS,
        pool=Path("web/a.jsonl"),
        root=Path("web/.."),
        selection=selection,
        output=output,
    )
    assert output.read_bytes() == LINES[2]


def test_a_file_of_which_nothing_is_selected_becomes_empty(root, tmp_path):
    selection = selection_of(tmp_path, [("a.jsonl", 3)])
    assert materialised(root, "web/a.jsonl", selection).read_bytes() == b""
    assert pq.read_table(materialised(root, "c.parquet", selection)).num_rows == 0
    nothing = selection_of(tmp_path, [])
    assert materialised(root, "a.jsonl", nothing).read_bytes() == b""


def test_a_pool_file_that_has_shrunk_is_refused_and_leaves_nothing_behind(root, tmp_path):
    selection = selection_of(tmp_path, [("a.jsonl", 10)])
    with pytest.raises(UserError, match="at least 11 documents"):
        materialised(root, "a.jsonl", selection)
    assert list((tmp_path / "dataset").iterdir()) == []


def test_the_note_says_rows_and_speed(root, tmp_path, capfd):
    materialised(root, "a.jsonl", selection_of(tmp_path, [("a.jsonl", 3), ("a.jsonl", 4)]))
    assert "[materialise] a.jsonl: 2 rows" in capfd.readouterr().err
