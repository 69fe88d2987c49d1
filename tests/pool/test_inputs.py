"""Pools as they lie around: nested fields, saved datasets, URLs, the hub, files of any size."""

from __future__ import annotations

from pathlib import Path

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_readers import KINDS, PLAIN, documents_file, refusal, write_stream

import small
import tables
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.pool import listing as pool_module
from groupmates.pool.chosen_rows import chosen_rows, chosen_texts, take_text
from groupmates.pool.copy_rows import copy_rows
from groupmates.pool.documents import Reject, read_documents
from groupmates.pool.identity import sha256_of
from groupmates.pool.listing import PoolFile, deal, expand, list_files
from groupmates.settings.config import PoolColumns
from groupmates.settings.per_stage import MaterialiseSettings
from groupmates.stages import materialise

NESTED = PoolColumns(text="content.text", id="meta.key.id", source="meta.kind")
SAME = MaterialiseSettings(format="same", text_columns=small.COLUMNS)
ROWS = [
    {"content": {"text": f"text {i}", "n": i}, "meta": {"key": {"id": i}, "kind": "web"}}
    for i in range(5)
]


def texts(file: PoolFile, columns: PoolColumns = PLAIN) -> list[str]:
    return [d.text for d in read_documents(file, columns)]


# Nested fields


@pytest.mark.parametrize("suffix", KINDS)
def test_nested_fields_are_named_with_dots(tmp_path, suffix):
    found = list(read_documents(documents_file(tmp_path, ROWS, suffix), NESTED))
    assert [(d.doc_id, d.text, d.source) for d in found] == [
        (str(i), f"text {i}", "web") for i in range(5)
    ]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_field_whose_own_name_has_a_dot_comes_first(tmp_path, suffix):
    rows = [{"content.text": "own", "content": {"text": "nested"}}]
    columns = PLAIN.model_copy(update={"text": "content.text"})
    assert texts(documents_file(tmp_path, rows, suffix), columns) == ["own"]


@pytest.mark.parametrize("suffix", KINDS)
def test_a_row_without_the_outer_field_is_a_bad_record(tmp_path, suffix):
    rows = [{"content": {"text": "one"}}, {"content": None}]
    columns = PLAIN.model_copy(update={"text": "content.text"})
    rejects: list[Reject] = []
    file = documents_file(tmp_path, rows, suffix)
    assert [d.text for d in read_documents(file, columns, rejects)] == ["one"]
    assert [(r.row, r.reason) for r in rejects] == [(1, "no text")]


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_columns_of_a_table_are_told_with_their_nested_names(tmp_path, suffix):
    error = refusal(lambda: texts(documents_file(tmp_path, ROWS, suffix)))
    assert "['content.text', 'content.n', 'meta.key.id', 'meta.kind']" in error.found
    assert "pool.columns.text" in error.todo


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_a_text_column_that_holds_no_strings_is_told_with_its_type(tmp_path, suffix):
    columns = PLAIN.model_copy(update={"text": "content.n"})
    error = refusal(lambda: texts(documents_file(tmp_path, ROWS, suffix), columns))
    assert (error.expected, error.found) == ("a column 'content.n' of strings", "int64")


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary("int8", "string")]
)
def test_strings_of_any_arrow_type_are_texts(tmp_path, kind):
    path = tmp_path / "part.arrow"
    write_stream(pa.table({"text": pa.array(["one", "two"]).cast(kind)}), path)
    assert texts(PoolFile(str(path), path.name)) == ["one", "two"]


# Saved datasets


def saved(folder: Path, rows: int = 10) -> datasets.Dataset:
    dataset = datasets.Dataset.from_list([{"text": f"text {i}"} for i in range(rows)])
    dataset.save_to_disk(folder, num_shards=3)
    return dataset


def test_a_saved_dataset_is_its_arrow_files_in_order(tmp_path):
    dataset = saved(tmp_path / "saved")
    files = list_files([str(tmp_path / "saved")])
    assert [f.name for f in files] == [f"saved/data-0000{i}-of-00003.arrow" for i in range(3)]
    assert [text for f in files for text in texts(f)] == dataset["text"][:]


def test_a_dataset_that_was_reordered_before_it_was_saved_is_read_in_the_order_it_has(tmp_path):
    dataset = saved(tmp_path / "first").shuffle(seed=1).select(range(7))
    dataset.save_to_disk(tmp_path / "second")
    (file,) = list_files([str(tmp_path / "second")])
    assert texts(file) == dataset["text"][:]


def test_of_several_saved_splits_one_must_be_named(tmp_path):
    split = datasets.Dataset.from_list([{"text": "one"}])
    both = datasets.DatasetDict({"train": split, "test": split})
    both.save_to_disk(tmp_path / "both")
    error = refusal(lambda: list_files([str(tmp_path / "both")]))
    assert "train, test" in error.found
    assert f"{tmp_path}/both/train" in error.todo
    assert len(list_files([f"{tmp_path}/both/train"])) == 1
    datasets.DatasetDict({"train": split}).save_to_disk(tmp_path / "one")
    assert list_files([f"{tmp_path}/one"])[0].path.startswith(f"{tmp_path}/one/train/data-")


def test_selected_rows_of_a_saved_dataset_load_with_datasets(tmp_path):
    dataset = saved(tmp_path / "saved", 100)
    file = list_files([str(tmp_path / "saved")])[1]
    copy = tmp_path / "copy.arrow"
    copy_rows(file, np.array([0, 7, 32]), copy)
    loaded = datasets.Dataset.from_file(str(copy))
    assert loaded.features == dataset.features
    assert loaded["text"][:] == [dataset["text"][34 + i] for i in (0, 7, 32)]


def test_a_folder_that_is_no_saved_dataset_is_refused_with_what_to_write(tmp_path):
    (tmp_path / "plain").mkdir()
    for entry in ("plain", "plain/", "plain/**"):
        error = refusal(lambda e=entry: list_files([f"{tmp_path}/{e}"]))
        assert "state.json" in error.expected
        assert f"{tmp_path}/plain/*.jsonl.zst" in error.todo


def test_a_damaged_list_of_a_saved_datasets_files_is_told(tmp_path):
    saved(tmp_path / "saved")
    (tmp_path / "saved/state.json").write_text("{")
    assert refusal(lambda: list_files([f"{tmp_path}/saved"])).where.endswith("saved/state.json")


def test_an_arrow_file_with_a_footer_says_to_convert_it(tmp_path):
    path, table = tmp_path / "part.arrow", pa.table({"text": ["one"]})
    with pa.OSFile(str(path), "wb") as raw, pa.ipc.new_file(raw, table.schema) as writer:
        writer.write_table(table)
    assert "Parquet" in refusal(lambda: texts(PoolFile(str(path), path.name))).todo


# Mixed pools


def mixed(folder: Path) -> list[str]:
    """One pool of all kinds, of 10 documents each; its patterns."""
    rows = small.documents(40)
    for number, suffix in enumerate(KINDS[:4]):
        part = folder / f"kind-{number}"
        part.mkdir(parents=True)
        documents_file(part, rows[10 * number : 10 * number + 10], suffix)
    more = [{"id": f"saved-{i}", "text": f"saved text {i}"} for i in range(10)]
    datasets.Dataset.from_list(more).save_to_disk(folder / "saved")
    return [
        f"{folder}/kind-[01]/*",
        f"{folder}/kind-{{2..2}}/part.jsonl.zst",
        f"{folder}/kind-3/*",
        f"{folder}/sav*",
    ]


# Shards by size

SIZES = st.lists(st.integers(0, 3_000_000), min_size=1, max_size=30)


def sized(sizes: list[int], shard_mb: float) -> list[list[int]]:
    """Sizes of the files of each shard."""
    files = [PoolFile(str(i), str(i)) for i in range(len(sizes))]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupmates.pool.opening.size_of", lambda path: sizes[int(path)])
        dealt = deal(files, None, shard_mb)
    return [[sizes[int(f.path)] for f in part] for part in dealt.values()]


def test_files_of_unequal_size_are_dealt_to_shards_of_like_size():
    assert sized([900_000, 50_000, 60_000, 2_500_000, 400_000, 600_000, 1], 1.0) == [
        [900_000, 50_000],
        [60_000],
        [2_500_000],
        [400_000, 600_000],
        [1],
    ]


@given(SIZES, SIZES, st.floats(0.1, 5))
def test_files_added_behind_leave_all_but_the_last_shard_as_they_are(sizes, added, shard_mb):
    before, after = sized(sizes, shard_mb), sized(sizes + added, shard_mb)
    assert after[: len(before) - 1] == before[:-1]
    assert after[len(before) - 1][: len(before[-1])] == before[-1]
    assert [size for part in after for size in part] == sizes + added
    for part, following in zip(after, [*after[1:], None], strict=True):
        assert len(part) == 1 or sum(part) <= shard_mb * 1e6 * (1 + 1e-9)
        assert following is None or sum(part) + following[0] > shard_mb * 1e6 * (1 - 1e-9)


def test_a_file_that_is_not_there_has_no_size_to_deal_by(tmp_path):
    error = refusal(lambda: deal(list_files([f"{tmp_path}/none.jsonl"]), None, 10))
    assert error.where == f"{tmp_path}/none.jsonl"
    assert "pool.files_per_shard" in error.todo


# URLs, with fsspec's file system in memory


@pytest.fixture
def bucket(tmp_path):
    """A pool of all kinds in memory://bucket/pool, and the patterns of its files."""
    memory = fsspec.filesystem("memory")
    mixed(tmp_path / "pool")
    memory.put(str(tmp_path / "pool"), "/bucket/pool", recursive=True)
    yield ["memory://bucket/pool/kind-*/*", "memory://bucket/pool/saved"]
    memory.rm("/bucket", recursive=True)


def test_a_remote_pool_has_the_documents_and_digests_of_a_local_one(bucket, tmp_path):
    remote = list_files(bucket)
    local = list_files([f"{tmp_path}/pool/kind-*/*", f"{tmp_path}/pool/saved"])
    assert [f.name for f in remote] == [f"bucket/pool/{f.name}" for f in local]
    for one, other in zip(remote, local, strict=True):
        assert list(read_documents(one, small.COLUMNS)) == list(
            read_documents(other, small.COLUMNS)
        )
        assert sha256_of(one.path) == sha256_of(other.path)
    sizes = [len(part) for part in deal(remote, None, 1e-3).values()]
    assert sizes == [len(part) for part in deal(local, None, 1e-3).values()]


def test_remote_files_are_checked_and_their_rows_copied_in_their_own_format(bucket, tmp_path):
    files = list_files(bucket)
    (shard,) = small.check_pool([[f.marked for f in files]], tmp_path)
    assert sum(read_table(shard, "check")["documents"].to_pylist()) == 50
    for file in files:
        selected = tables.selection(tmp_path / "select.parquet", [(file.name, 4)], [file.marked])
        output = tmp_path / "dataset.shards/00000.json"
        materialise.run(SAME, pool=[file.marked], selection=selected, output=output)
        (text,) = texts(PoolFile(str(tmp_path / "dataset" / file.name), file.name), small.COLUMNS)
        assert text == texts(file, small.COLUMNS)[4]


def test_chosen_rows_of_all_kinds_are_those_that_were_read_whole(bucket, tmp_path):
    rows = np.array([0, 4, 9])
    for file in [*list_files(bucket), *list_files(mixed(tmp_path / "local"))]:
        whole = texts(file, small.COLUMNS)
        assert list(chosen_texts(file, rows, small.COLUMNS.text)) == [whole[row] for row in rows]
        for values, row in zip(chosen_rows(file, rows), rows, strict=True):
            assert take_text(values, small.COLUMNS.text, "") == whole[row]
            assert small.COLUMNS.text not in values
        error = refusal(lambda f=file: list(chosen_texts(f, np.array([3, 10]), "text")))
        assert "as when the run read it before" in error.expected


@pytest.mark.parametrize("suffix", KINDS)
def test_the_text_of_chosen_rows_may_be_nested(tmp_path, suffix):
    file = documents_file(tmp_path, ROWS, suffix)
    assert list(chosen_texts(file, np.array([1, 3]), NESTED.text)) == ["text 1", "text 3"]
    (values,) = chosen_rows(file, np.array([2]))
    assert take_text(values, NESTED.text, "") == "text 2"
    assert values["content"] == {"n": 2}
    with pytest.raises(UserError, match="as when the run read it before"):
        list(chosen_texts(file, np.array([1]), "content.words"))


def test_a_missing_remote_file_and_a_glob_without_files_are_told(bucket):
    file = PoolFile("memory://bucket/none.jsonl", "none.jsonl")
    assert refusal(lambda: texts(file)).found == "none"
    error = refusal(lambda: expand(["memory://bucket/none/*.jsonl"]))
    assert "no file that matches" in error.found


def test_a_scheme_whose_package_is_missing_is_told_with_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    error = refusal(lambda: texts(PoolFile("s3://bucket/a.jsonl", "a.jsonl")))
    assert "s3fs" in error.found + error.todo
    assert error.where == "s3://bucket/a.jsonl"


def test_a_connection_that_breaks_while_reading_is_told(bucket, monkeypatch):
    class Broken(Exception):
        pass

    def breaks(self, *_):
        raise Broken("reset by peer")

    file = list_files(bucket)[0]
    monkeypatch.setattr("fsspec.implementations.memory.MemoryFile.read", breaks, raising=False)
    error = refusal(lambda: texts(file))
    assert "Broken: reset by peer" in error.found
    assert "network" in error.todo


# The hub


class Builder:
    def __init__(self, splits):
        self.config = type("Config", (), {"data_files": splits})


def test_a_dataset_of_the_hub_is_the_files_of_its_training_split(bucket, monkeypatch):
    asked = []
    splits = {"train": expand(bucket)[:2], "test": ["memory://bucket/other.jsonl"]}
    monkeypatch.setattr(
        "datasets.load_dataset_builder", lambda *names: asked.append(names) or Builder(splits)
    )
    assert [f.path for f in list_files(["owner/name:small"])] == splits["train"]
    assert asked == [("owner/name", "small")]


def test_a_dataset_of_the_hub_without_a_training_split_is_refused(monkeypatch):
    monkeypatch.setattr(
        "datasets.load_dataset_builder", lambda *names: Builder({"test": ["a.jsonl"]})
    )
    error = refusal(lambda: list_files(["owner/name"]))
    assert "['test']" in error.found
    assert "hf://datasets/owner/name/" in error.todo


def test_a_hub_that_is_out_of_reach_says_how_to_bring_the_dataset(monkeypatch):
    """conftest.py sets HF_HUB_OFFLINE: this is what the library raises then."""
    error = refusal(lambda: list_files(["owner/name"]))
    assert "no such file or folder" in error.found
    assert "hf download --repo-type dataset owner/name --local-dir DIR" in error.todo


def test_a_path_of_more_parts_is_not_looked_for_on_the_hub(monkeypatch):
    monkeypatch.setattr(pool_module, "hub_files", lambda *_: pytest.fail("looked up"))
    assert [file.name for file in list_files(["a/b/part"])] == ["b/part"]
