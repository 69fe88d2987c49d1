"""The dataset: the selected rows of each pool file, unchanged or as Parquet, and its description."""

import io
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import small
import tables
from groupmates.artefacts.store import read_artefact_json
from groupmates.errors import UserError
from groupmates.pool import copy_rows
from groupmates.settings.per_stage import AssembleSettings, MaterialiseSettings
from groupmates.stages import materialise

# No line has an id: rows are found by file and number alone.
SETTINGS = MaterialiseSettings(format="same", text_columns=small.COLUMNS)
PARQUET = MaterialiseSettings(format="parquet", text_columns=small.COLUMNS)
LINES = [b'{"text":  "document %d"}\n' % i for i in range(10)]


def selection_of(folder: Path, chosen: list[tuple[str, int]]) -> Path:
    return tables.selection(folder / "select.parquet", chosen, n_tokens=5)


def materialised(root: Path, name: str, selection: Path, settings=SETTINGS) -> Path:
    output = root.parent / "dataset" / name
    materialise.run(settings, pool=root / name, root=root, selection=selection, output=output)
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
        SETTINGS, pool=Path("web/a.jsonl"), root=Path("web/.."), selection=selection, output=output
    )
    assert output.read_bytes() == LINES[2]


def test_a_file_of_which_nothing_is_selected_becomes_empty(root, tmp_path):
    selection = selection_of(tmp_path, [("a.jsonl", 3)])
    assert materialised(root, "web/a.jsonl", selection).read_bytes() == b""
    assert pq.read_table(materialised(root, "c.parquet", selection)).num_rows == 0
    nothing = selection_of(tmp_path, [])
    assert materialised(root, "a.jsonl", nothing).read_bytes() == b""


# Readers that know nothing of this pipeline


def read_as_dclm_does(path: Path) -> list[dict]:
    """A zstd stream without further arguments, which ends with the first frame, as lines of text."""
    with path.open("rb") as raw, zstandard.ZstdDecompressor().stream_reader(raw) as stream:
        return [json.loads(line) for line in io.TextIOWrapper(stream, encoding="utf-8")]


def loaded(kind: str, files: list[Path], folder: Path) -> datasets.Dataset:
    names = [str(path) for path in files]
    return datasets.load_dataset(kind, data_files=names, split="train", cache_dir=str(folder))


def test_a_compressed_file_is_one_frame_as_dclm_s_readers_expect(tmp_path):
    rows = [{"text": f"line\u2028 {i}\r" + "x" * 2000} for i in range(3000)]
    pool = tmp_path / "pool/a.jsonl.zst"
    pool.parent.mkdir()
    lines = [
        json.dumps(row, ensure_ascii=i % 2 == 0).encode() + b"\n" for i, row in enumerate(rows)
    ]
    # Several frames in the pool's file, as tools that append write them.
    pool.write_bytes(b"".join(zstandard.compress(line) for line in lines))
    chosen = [("a.jsonl.zst", i) for i in range(1, 3000)]
    written = materialised(pool.parent, "a.jsonl.zst", selection_of(tmp_path, chosen))
    assert read_as_dclm_does(written) == rows[1:]
    assert zstandard.get_frame_parameters(written.read_bytes()).has_checksum


def test_hugging_face_datasets_load_files_of_which_nothing_was_selected_too(root, tmp_path):
    selection = selection_of(tmp_path, [("web/a.jsonl", 3)])
    files = [materialised(root, name, selection) for name in ("a.jsonl", "web/a.jsonl")]
    assert loaded("json", files, tmp_path)["text"] == ["document 3"]


# Parquet by choice

ODD = [
    {"text": "one", "id": "a", "score": 1, "meta": {"deep": [1, None, "ü"]}},
    {"text": "two", "id": "b", "score": "high"},
    {"text": "three", "id": "c", "score": None, "more": 2.5, "deep": {"er": {}}},
    {"text": "four\u0000\u2028", "id": "d"},
]


def odd_pool(folder: Path) -> Path:
    small.write_lines(folder / "pool/a.jsonl", ODD)
    small.write_lines(folder / "pool/b.jsonl", [{"text": "only text", "meta": [1]}])
    pq.write_table(pa.table({"text": ["p", "q"], "n": [1, 2]}), folder / "pool/c.parquet")
    return folder / "pool"


def test_parquet_holds_text_and_every_other_field_whatever_the_rows_types(tmp_path):
    pool = odd_pool(tmp_path)
    chosen = [("a.jsonl", i) for i in range(4)] + [("b.jsonl", 0), ("c.parquet", 1)]
    selection = selection_of(tmp_path, chosen)
    files = [
        materialised(pool, name, selection, PARQUET) for name in ("a.jsonl", "b.jsonl", "c.parquet")
    ]
    table = loaded("parquet", files, tmp_path)
    rows = [*ODD, {"text": "only text", "meta": [1]}, {"text": "q", "n": 2}]
    assert table["text"] == [row["text"] for row in rows]
    assert table["doc_id"] == [f"{name}#{row}" for name, row in chosen]
    found = [json.loads(fields) for fields in table["fields"]]
    assert found == [{k: v for k, v in row.items() if k != "text"} for row in rows]


def test_parquet_of_which_nothing_is_selected_has_the_same_columns(tmp_path):
    pool = odd_pool(tmp_path)
    selection = selection_of(tmp_path, [("b.jsonl", 0)])
    one, none = (materialised(pool, name, selection, PARQUET) for name in ("b.jsonl", "a.jsonl"))
    assert pq.read_schema(none).equals(pq.read_schema(one))
    assert loaded("parquet", [none, one], tmp_path)["text"] == ["only text"]


def test_parquet_row_groups_are_bounded_by_their_text(tmp_path, monkeypatch):
    pool = odd_pool(tmp_path)
    selection = selection_of(tmp_path, [("a.jsonl", i) for i in range(4)])
    whole = pq.read_table(materialised(pool, "a.jsonl", selection, PARQUET))
    monkeypatch.setattr(copy_rows, "GROUP_BYTES", 60)  # of text and fields
    pieces = pq.ParquetFile(materialised(pool, "a.jsonl", selection, PARQUET))
    assert [pieces.metadata.row_group(i).num_rows for i in range(2)] == [2, 2]
    assert pieces.read().equals(whole)


@pytest.mark.parametrize("settings", [SETTINGS, PARQUET], ids=["same", "parquet"])
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.zst", "c.parquet"])
def test_the_same_selection_gives_the_same_bytes(name, settings, root, tmp_path):
    selection = selection_of(tmp_path, [(name, i) for i in (0, 4, 9)])
    first = materialised(root, name, selection, settings).read_bytes()
    assert materialised(root, name, selection, settings).read_bytes() == first


@pytest.mark.parametrize("settings", [SETTINGS, PARQUET], ids=["same", "parquet"])
@pytest.mark.parametrize("name", ["a.jsonl", "c.parquet"])
def test_a_file_that_has_shrunk_is_told_whatever_the_format(name, settings, root, tmp_path):
    selection = selection_of(tmp_path, [(name, 2), (name, 12)])
    with pytest.raises(UserError, match=r"at least 13 documents(.|\n)*found: 10"):
        materialised(root, name, selection, settings)
    assert list((tmp_path / "dataset").iterdir()) == []


def test_a_row_that_has_lost_its_text_is_told_with_its_line(tmp_path):
    pool = odd_pool(tmp_path)
    small.write_lines(pool / "a.jsonl", [ODD[0], {"texx": "two"}])
    selection = selection_of(tmp_path, [("a.jsonl", 1)])
    with pytest.raises(UserError, match=r"a string in the field 'text'(.|\n)*a.jsonl, line 2"):
        materialised(pool, "a.jsonl", selection, PARQUET)
    (pool / "a.jsonl").write_text('{"text": "one"}\n{"text\n')
    with pytest.raises(UserError, match=r"a JSON object(.|\n)*a.jsonl, line 2"):
        materialised(pool, "a.jsonl", selection, PARQUET)


# One dataset of what was written


def test_the_card_counts_and_what_is_of_another_format_goes(root, tmp_path):
    selection = selection_of(tmp_path, [("a.jsonl", 3), ("a.jsonl", 4), ("c.parquet", 0)])
    files = [materialised(root, name, selection) for name in ("a.jsonl", "c.parquet")]
    folder = tmp_path / "dataset"
    for stale in ("a.jsonl.parquet", "gone/b.parquet", "part-00000/00000000.tar", ".x.kept/i.json"):
        (folder / stale).parent.mkdir(parents=True, exist_ok=True)
        (folder / stale).write_bytes(b"old")
    card = tmp_path / "dataset.json"
    materialise.run_assemble(
        AssembleSettings(format="same"), written=files, select=[selection], output=card
    )
    assert sorted(folder.rglob("*")) == sorted(files)
    found = read_artefact_json(card, "dataset_card")
    assert found.pop("provenance")["settings"] == {"format": "same"}
    size = sum(path.stat().st_size for path in files)
    assert found == {"format": "same", "documents": 3, "tokens": 15, "bytes": size}
