"""The dataset: the selected rows of each pool file, unchanged or as Parquet, and its description."""

import io
import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
import zstandard

import killed
import small
import tables
from groupmates.artefacts.store import read_artefact_json, read_table
from groupmates.errors import UserError
from groupmates.pool import copy_rows
from groupmates.pool.listing import list_files
from groupmates.settings.per_stage import AssembleSettings, MaterialiseSettings
from groupmates.stages import materialise
from groupmates.stages.dataset_card import size_category

# No line has an id: rows are found by file and number alone.
SETTINGS = MaterialiseSettings(format="same", text_columns=small.COLUMNS)
PARQUET = MaterialiseSettings(format="parquet", text_columns=small.COLUMNS)
LINES = [b'{"text":  "document %d"}\n' % i for i in range(10)]


def pool_of(root: Path) -> list[str]:
    return small.marked(root, sorted(path for path in root.rglob("*") if path.is_file()))


def selection_of(root: Path, chosen: list[tuple[str, int]]) -> Path:
    path = root.parent / "select.parquet"
    return tables.selection(path, chosen, pool_of(root), n_tokens=5)


def written_of(root: Path, names: list[str], selection: Path, settings=SETTINGS) -> Path:
    """The record of a shard of these files."""
    output = root.parent / "dataset.shards/00000.json"
    pool = small.marked(root, [root / name for name in names])
    materialise.run(settings, pool=pool, selection=selection, output=output)
    return output


def materialised(root: Path, name: str, selection: Path, settings=SETTINGS) -> Path:
    """The file that is written of one pool file."""
    (file,) = materialise.files_of(written_of(root, [name], selection, settings))
    return file


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
    selection = selection_of(root, [*chosen, ("web/a.jsonl", 5), ("web/a.jsonl", 6)])
    assert materialised(root, "a.jsonl", selection).read_bytes() == LINES[3]
    assert materialised(root, "web/a.jsonl", selection).read_bytes() == LINES[5] + LINES[6]
    b = materialised(root, "b.jsonl.zst", selection).read_bytes()
    assert zstandard.ZstdDecompressor().decompressobj().decompress(b) == LINES[0] + LINES[9]
    c = pq.read_table(materialised(root, "c.parquet", selection))
    assert c.to_pylist() == [{"text": "document 1"}]


def test_a_shard_s_files_lie_under_their_names_and_its_record_lists_their_rows(root, tmp_path):
    selection = selection_of(root, [("a.jsonl", 3), ("web/a.jsonl", 5), ("web/a.jsonl", 6)])
    record = written_of(root, ["a.jsonl", "web/a.jsonl", "c.parquet"], selection)
    rows = read_artefact_json(record, "dataset_shard")["rows"]
    assert rows == {"a.jsonl": 1, "web/a.jsonl": 2, "c.parquet": 0}
    assert materialise.files_of(record) == [tmp_path / "dataset" / name for name in rows]
    record = written_of(root, ["web/a.jsonl"], selection, PARQUET)
    assert read_artefact_json(record, "dataset_shard")["rows"] == {"web/a.jsonl.parquet": 2}


def test_relative_paths_mean_the_same_files(root, tmp_path, monkeypatch):
    monkeypatch.chdir(root.parent)
    (file,) = list_files(["pool/web/a.jsonl"])
    selection = tables.selection(tmp_path / "select.parquet", [("web/a.jsonl", 2)], [file.marked])
    output = Path("relative/dataset.shards/00000.json")
    materialise.run(SETTINGS, pool=[file.marked], selection=selection, output=output)
    assert Path("relative/dataset/web/a.jsonl").read_bytes() == LINES[2]


def test_a_file_of_which_nothing_is_selected_becomes_empty(root, tmp_path):
    selection = selection_of(root, [("a.jsonl", 3)])
    assert materialised(root, "web/a.jsonl", selection).read_bytes() == b""
    assert pq.read_table(materialised(root, "c.parquet", selection)).num_rows == 0
    nothing = selection_of(root, [])
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
    written = materialised(pool.parent, "a.jsonl.zst", selection_of(pool.parent, chosen))
    assert read_as_dclm_does(written) == rows[1:]
    assert zstandard.get_frame_parameters(written.read_bytes()).has_checksum


def test_hugging_face_datasets_load_files_of_which_nothing_was_selected_too(root, tmp_path):
    selection = selection_of(root, [("web/a.jsonl", 3)])
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
    selection = selection_of(pool, chosen)
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
    selection = selection_of(pool, [("b.jsonl", 0)])
    one, none = (materialised(pool, name, selection, PARQUET) for name in ("b.jsonl", "a.jsonl"))
    assert pq.read_schema(none).equals(pq.read_schema(one))
    assert loaded("parquet", [none, one], tmp_path)["text"] == ["only text"]


def test_parquet_row_groups_are_bounded_by_their_text(tmp_path, monkeypatch):
    pool = odd_pool(tmp_path)
    selection = selection_of(pool, [("a.jsonl", i) for i in range(4)])
    whole = pq.read_table(materialised(pool, "a.jsonl", selection, PARQUET))
    monkeypatch.setattr(copy_rows, "GROUP_BYTES", 60)  # of text and fields
    pieces = pq.ParquetFile(materialised(pool, "a.jsonl", selection, PARQUET))
    assert [pieces.metadata.row_group(i).num_rows for i in range(2)] == [2, 2]
    assert pieces.read().equals(whole)


@pytest.mark.parametrize("settings", [SETTINGS, PARQUET], ids=["same", "parquet"])
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.zst", "c.parquet"])
def test_the_same_selection_gives_the_same_bytes(name, settings, root, tmp_path):
    selection = selection_of(root, [(name, i) for i in (0, 4, 9)])
    first = materialised(root, name, selection, settings).read_bytes()
    assert materialised(root, name, selection, settings).read_bytes() == first


@pytest.mark.parametrize("settings", [SETTINGS, PARQUET], ids=["same", "parquet"])
@pytest.mark.parametrize("name", ["a.jsonl", "b.jsonl.zst", "c.parquet"])
def test_a_file_that_was_replaced_since_it_was_scored_is_refused(name, settings, root, tmp_path):
    selection = selection_of(root, [(name, 2)])
    before = (root / name).stat()
    (root / name).write_bytes((root / name).read_bytes() + b" ")
    os.utime(root / name, (0, 0))  # older than what was made of the file
    with pytest.raises(UserError, match=rf"{before.st_size} bytes, sha256 ") as caught:
        materialised(root, name, selection, settings)
    assert f"{before.st_size + 1} bytes" in caught.value.found
    assert caught.value.where == f"{root / name}"
    assert not [path for path in (tmp_path / "dataset").rglob("*") if path.is_file()]


def test_a_file_that_was_not_scored_is_refused(root, tmp_path):
    scored = [path for path in pool_of(root) if not path.endswith("c.parquet")]
    selection = tables.selection(tmp_path / "select.parquet", [("a.jsonl", 2)], scored)
    with pytest.raises(UserError, match="a file that was scored"):
        materialised(root, "c.parquet", selection)


NAMES = ["a.jsonl", "b.jsonl.zst", "c.parquet", "web/a.jsonl"]


def test_a_killed_job_goes_on_after_its_last_file(root, tmp_path, monkeypatch):
    selection = selection_of(root, [(name, row) for name in NAMES for row in (2, 5)])
    killed.saving(monkeypatch)
    true, begun = materialise.copy_rows, []

    def dies(file, rows, destination):
        begun.append(file.name)
        if len(begun) == 3:
            destination.write_bytes(b"half")
            raise KeyboardInterrupt
        true(file, rows, destination)

    monkeypatch.setattr(materialise, "copy_rows", dies)
    output = tmp_path / "dataset.shards/00000.json"
    attempts = killed.until_written(output, lambda: written_of(root, NAMES, selection))
    assert (attempts, begun) == (2, [*NAMES[:3], *NAMES[2:]])
    found = {path.name: path.read_bytes() for path in materialise.files_of(output)}
    monkeypatch.undo()
    (tmp_path / "whole").mkdir()
    other = shutil.copytree(root, tmp_path / "whole/pool")
    whole = written_of(other, NAMES, selection_of(other, read_places(selection)))
    assert found == {path.name: path.read_bytes() for path in materialise.files_of(whole)}
    assert sorted(path.name for path in output.parent.iterdir()) == ["00000.json"]


def read_places(selection: Path) -> list[tuple[str, int]]:
    rows = read_table(selection, "select", ["source_file", "source_row"]).to_pylist()
    return [(row["source_file"], row["source_row"]) for row in rows]


# One dataset of what was written


def assembled(
    written: list[Path], selection: Path, format: str = "same", license: str | None = "odc-by"
) -> Path:
    """The dataset's folder."""
    settings = AssembleSettings(run="tiny", format=format, license=license)
    output = selection.parent / "dataset.json"
    materialise.run_assemble(settings, written=written, select=[selection], output=output)
    return output.with_suffix("")


def test_the_dataset_counts_and_what_is_of_another_format_goes(root, tmp_path):
    selection = selection_of(root, [("a.jsonl", 3), ("a.jsonl", 4), ("c.parquet", 0)])
    record = written_of(root, ["a.jsonl", "c.parquet"], selection)
    folder = tmp_path / "dataset"
    for stale in ("a.jsonl.parquet", "gone/b.parquet", "part-00000/00000000.tar", ".x.kept/i.json"):
        (folder / stale).parent.mkdir(parents=True, exist_ok=True)
        (folder / stale).write_bytes(b"old")
    assembled([record], selection)
    files = [folder / "a.jsonl", folder / "c.parquet"]
    assert sorted(folder.rglob("*")) == sorted([*files, folder / "README.md"])
    found = read_artefact_json(tmp_path / "dataset.json", "dataset_card")
    assert found.pop("provenance")["settings"]["format"] == "same"
    size = sum(path.stat().st_size for path in files)
    assert found == {"format": "same", "documents": 3, "tokens": 15, "bytes": size}


def test_a_file_that_is_gone_is_told_with_the_record_that_makes_it_anew(root, tmp_path):
    selection = selection_of(root, [("a.jsonl", 3)])
    record = written_of(root, ["a.jsonl", "web/a.jsonl"], selection)
    (tmp_path / "dataset/web/a.jsonl").unlink()
    with pytest.raises(UserError, match=r"no .*dataset/web/a\.jsonl") as caught:
        assembled([record], selection)
    assert str(record) in caught.value.where
    assert not (tmp_path / "dataset/README.md").exists()


# Its card


def header(folder: Path) -> dict:
    start, head, _ = (folder / "README.md").read_text().split("---\n", 2)
    assert start == ""
    return yaml.safe_load(head)


def test_the_card_says_licence_size_and_what_is_read(root):
    selection = selection_of(root, [("a.jsonl", 3), ("b.jsonl.zst", 0)])
    folder = assembled([written_of(root, NAMES, selection)], selection)
    head = header(folder)
    assert (head["license"], head["size_categories"]) == ("odc-by", ["n<1K"])
    # Parquet beside lines is of another reader: `datasets` has one for a folder.
    assert head["configs"] == [
        {"config_name": "default", "data_files": ["**/*.jsonl", "**/*.jsonl.zst"]}
    ]
    told = (folder / "README.md").read_text()
    for line in ("| documents | 2 |", "| tokens | 10 |", "| method | `random` |", "ratio 0.5"):
        assert line in told
    assert "| pool | `a.jsonl`, " in told
    assert (
        header(assembled([written_of(root, NAMES, selection)], selection, license=None))["license"]
        == "unknown"
    )


@pytest.mark.parametrize(
    ("documents", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**8, "100M<n<1B"), (10**9, "n>1B")],
)
def test_the_size_category_is_the_hub_s(documents, category):
    assert size_category(documents) == category


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (SETTINGS, ["a.jsonl", "web/a.jsonl"]),
        (SETTINGS, ["b.jsonl.zst", "web/b.jsonl.zst"]),
        (SETTINGS, ["c.parquet"]),
        (PARQUET, NAMES),
    ],
    ids=["jsonl", "jsonl.zst", "parquet files", "parquet"],
)
def test_datasets_load_the_folder_of_a_dataset_by_its_card(settings, names, root, tmp_path):
    """Of the last file nothing was selected: it is empty, and the others are loaded."""
    shutil.copy(root / "b.jsonl.zst", root / "web/b.jsonl.zst")
    full = names[:-1] or names
    chosen = [(name, row) for name in full for row in (2, 5)]
    selection = selection_of(root, chosen)
    folder = assembled([written_of(root, names, selection, settings)], selection, settings.format)
    table = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["text"][:] == ["document 2", "document 5"] * len(full)


def test_datasets_load_lines_however_they_are_compressed(root, tmp_path):
    selection = selection_of(root, [("a.jsonl", 1), ("b.jsonl.zst", 2)])
    folder = assembled([written_of(root, NAMES[:2], selection)], selection)
    table = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert table["text"][:] == ["document 1", "document 2"]
