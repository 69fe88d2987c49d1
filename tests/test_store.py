"""Artefacts: whole or absent, the same bytes twice, and refused loudly when they are not ours."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from groupmates.artefacts import store
from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.store import Provenance
from groupmates.errors import UserError

PROVENANCE = Provenance("evaluate", {"seed": 3}, {"base": "abc"})
CURVE = {"tokens": [0, 10, 20], "loss_nats": [3.0, 2.0, 1.5]}


def curve(path: Path, **changed) -> Path:
    store.write_table(path, "curve", PROVENANCE, CURVE | changed)
    return path


def refusal(action, *arguments) -> UserError:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    return caught.value


def files_below(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


# Atomic


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_exception_leaves_neither_the_artefact_nor_a_part_of_it(tmp_path, kind):
    def write() -> None:
        with store.replacing(tmp_path / "out") as temporary:
            if kind == "folder":
                temporary.mkdir()
                temporary = temporary / "inside"
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert files_below(tmp_path) == []


def test_an_exception_leaves_the_artefact_that_was_there(tmp_path):
    before = curve(tmp_path / "curve.parquet").read_bytes()
    with pytest.raises(KeyError):  # noqa: SIM117
        with store.table_writer(tmp_path / "curve.parquet", "curve", PROVENANCE) as writer:
            writer.write(CURVE)
            writer.write({"tokens": [30]})
    assert (tmp_path / "curve.parquet").read_bytes() == before
    assert files_below(tmp_path) == ["curve.parquet"]


def test_an_artefact_is_absent_until_it_is_complete(tmp_path):
    with store.table_writer(tmp_path / "a/curve.parquet", "curve", PROVENANCE) as writer:
        writer.write(CURVE)
        assert not (tmp_path / "a/curve.parquet").exists()
    assert files_below(tmp_path) == ["a", "a/curve.parquet"]


def test_a_folder_replaces_the_one_before_with_all_its_files(tmp_path):
    for name in ("old", "new"):
        with store.replacing(tmp_path / "folder") as temporary:
            temporary.mkdir()
            (temporary / name).touch()
    assert files_below(tmp_path) == ["folder", "folder/new"]


def test_what_a_killed_job_left_is_removed_and_nothing_else(tmp_path):
    (tmp_path / ".out.123.partial/inside").mkdir(parents=True)
    (tmp_path / ".out.45.partial").write_text("half")
    others = [
        ".out.examples.45.partial",
        ".outer.45.partial",
        ".out.45.partial.md",
        "out.45.partial",
    ]
    for name in others:
        (tmp_path / name).write_text("of another")
    with store.replacing(tmp_path / "out") as temporary:
        assert files_below(tmp_path) == sorted(others)
        temporary.write_text("whole")
    assert files_below(tmp_path) == sorted([*others, "out"])


def test_the_same_content_gives_the_same_bytes(tmp_path):
    a, b = curve(tmp_path / "a.parquet"), curve(tmp_path / "b.parquet")
    assert a.read_bytes() == b.read_bytes()
    for name in ("a.json", "b.json"):
        store.write_json(tmp_path / name, "summary", PROVENANCE, {"b": 1, "a": [2]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


# Provenance


def test_provenance_says_what_wrote_an_artefact_from_what(tmp_path):
    metadata = pq.read_schema(curve(tmp_path / "curve.parquet")).metadata
    record = json.loads(metadata[store.KEY])
    assert record == {
        "artefact": "curve",
        "version": ARTEFACTS["curve"].version,
        "code": store.code_revision(),
        "stage": "evaluate",
        "settings": {"seed": 3},
        "inputs": {"base": "abc"},
    }
    store.write_json(tmp_path / "s.json", "summary", PROVENANCE, {"x": 1})
    body = store.read_json(tmp_path / "s.json")
    assert body["x"] == 1
    summary = {"artefact": "summary", "version": ARTEFACTS["summary"].version}
    assert body["provenance"] == record | summary


def test_not_a_number_is_no_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        store.write_json(tmp_path / "s.json", "summary", PROVENANCE, {"x": float("nan")})
    assert files_below(tmp_path) == []


# Checked when read


def test_a_table_comes_back_with_its_columns_and_types(tmp_path):
    table = store.read_table(curve(tmp_path / "curve.parquet"), "curve")
    assert table.to_pydict() == CURVE
    assert table.schema.types == [pa.int64(), pa.float64()]
    assert store.read_table(tmp_path / "curve.parquet", "curve", ["tokens"]).num_columns == 1


def test_a_missing_value_is_no_value(tmp_path):
    with pytest.raises((pa.ArrowInvalid, ValueError)):
        curve(tmp_path / "curve.parquet", tokens=[0, None, 20])
    assert files_below(tmp_path) == []


def test_no_file_says_so(tmp_path):
    error = refusal(store.read_table, tmp_path / "curve.parquet", "curve")
    assert error.found == "no file"
    assert ARTEFACTS["curve"].meaning in error.expected
    assert (error.where, "snakemake" in error.todo) == (str(tmp_path / "curve.parquet"), True)


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "foreign"])
def test_what_is_not_whole_or_not_ours_is_refused_with_its_path(tmp_path, damage):
    path = curve(tmp_path / "curve.parquet")
    content = path.read_bytes()
    if damage == "foreign":
        pq.write_table(pa.table(CURVE), path)
    else:
        path.write_bytes({"truncated": content[:-20], "empty": b"", "text": b"{}" * 50}[damage])
    error = refusal(store.read_table, path, "curve")
    assert error.where == str(path)
    assert f"--force {path}" in error.todo
    assert ("cannot be read" in error.found) == (damage != "foreign")


def test_another_artefact_is_refused(tmp_path):
    error = refusal(store.read_table, curve(tmp_path / "x.parquet"), "probe")
    assert "'artefact': 'probe'" in error.expected
    assert "'artefact': 'curve'" in error.found


def with_record(path: Path, table: pa.Table, **changed) -> None:
    record = json.loads(pq.read_schema(path).metadata[store.KEY]) | changed
    pq.write_table(table.replace_schema_metadata({store.KEY: json.dumps(record)}), path)


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("kind", ["table", "folder", "JSON file"])
def test_what_another_version_of_the_code_wrote_is_refused_and_told_apart(tmp_path, kind, by):
    path = tmp_path / "artefact"
    if kind == "table":
        curve(path)
        with_record(path, pa.table(CURVE), version=ARTEFACTS["curve"].version + by, code="9.9+abc")
        error = refusal(store.read_table, path, "curve")
    else:
        if kind == "folder":
            path.mkdir()
            store.write_folder_provenance(path, "curve", PROVENANCE)
            record = path / "provenance.json"
        else:
            store.write_json(path, "curve", PROVENANCE, {})
            record = path
        body = json.loads(record.read_text())
        (body if kind == "folder" else body["provenance"]).update(
            version=ARTEFACTS["curve"].version + by, code="9.9+abc"
        )
        record.write_text(json.dumps(body))
        read = store.read_folder_json if kind == "folder" else store.read_artefact_json
        error = refusal(read, path, "curve", *["provenance.json"] * (kind == "folder"))
    assert f"'version': {ARTEFACTS['curve'].version}" in error.expected
    assert f"'version': {ARTEFACTS['curve'].version + by}" in error.found
    assert "written by 9.9+abc" in error.found
    assert error.where == str(path)
    assert "--force" in error.todo
    assert ("use the code that wrote it" in error.todo) == (by > 0)


def test_a_table_without_one_of_its_columns_is_refused(tmp_path):
    path = curve(tmp_path / "curve.parquet")
    with_record(path, pa.table({"tokens": [1]}))
    assert "loss_nats" in refusal(store.read_table, path, "curve").expected


def test_a_corrupted_page_is_found_by_its_checksum(tmp_path):
    values = np.random.default_rng(0).normal(size=1000)
    path = curve(tmp_path / "curve.parquet", tokens=np.arange(1000), loss_nats=values)
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(1)
    content = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start + chunk.total_compressed_size // 2] ^= 1
    path.write_bytes(content)
    error = refusal(store.read_table, path, "curve")
    assert "cannot be read" in error.found
    assert error.where == str(path)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe\x00"])
def test_json_that_is_missing_or_damaged_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "s.json").write_bytes(content)
    error = refusal(store.read_json, tmp_path / "s.json")
    assert error.where == str(tmp_path / "s.json")


def test_a_folder_of_another_artefact_is_refused(tmp_path):
    store.write_folder_provenance(tmp_path, "base", PROVENANCE)
    (tmp_path / "training.json").write_text('{"optimizer": 1}')
    assert store.read_folder_json(tmp_path, "base", "training.json") == {"optimizer": 1}
    error = refusal(store.read_folder_json, tmp_path, "fit", "training.json")
    assert (error.where, "'base'" in error.found) == (str(tmp_path), True)
    assert refusal(store.read_folder_json, tmp_path / "no", "fit", "x.json").where.startswith(
        str(tmp_path / "no")
    )


# Columns


def scored(tmp_path):
    """A table of two row groups with embeddings [10, 4]."""
    emb = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    path = tmp_path / "score.parquet"
    with store.table_writer(path, "score", PROVENANCE, 4) as writer:
        for part in (slice(0, 6), slice(6, 10)):
            names = [f"d{i}" for i in range(10)][part]
            writer.write(
                {
                    "doc_id": names,
                    "source_file": ["a"] * len(names),
                    "source_row": np.arange(10)[part],
                    "source": [""] * len(names),
                    "n_tokens": np.ones(len(names), int),
                    "individual_influence": np.zeros(len(names), np.float32),
                    "embedding": emb[part],
                }
            )
    return path, emb


def test_embeddings_come_back_row_group_by_row_group_and_as_any_numpy_reads_them(tmp_path):
    path, emb = scored(tmp_path)
    found = list(store.embeddings(path, "score"))
    assert [len(group) for group in found] == [6, 4]
    assert np.array_equal(np.concatenate(found), emb)
    (second,) = store.embeddings(path, "score", [1])
    assert np.array_equal(second, emb[6:])
    beside = np.load(path.with_suffix(".npy"), mmap_mode="r")
    assert (beside.dtype, beside.tolist()) == (np.float32, emb.tolist())
    assert store.embedding_size(path) == 4


@pytest.mark.parametrize("damage", ["a bit", "the end", "none there", "of another table"])
def test_damaged_embeddings_name_their_file(tmp_path, damage):
    path, emb = scored(tmp_path)
    beside = path.with_suffix(".npy")
    written = bytearray(beside.read_bytes())
    written[-1] ^= 1
    broken = {"a bit": bytes(written), "the end": bytes(written[:-1])}
    if damage in broken:
        beside.write_bytes(broken[damage])
    elif damage == "none there":
        beside.unlink()
    else:
        np.save(beside, emb[:, :2])
    error = refusal(lambda: list(store.embeddings(path, "score")))
    assert error.where == str(beside)


def test_shards_stand_below_each_other_in_the_order_given(tmp_path):
    a = curve(tmp_path / "a.parquet")
    b = curve(tmp_path / "b.parquet", tokens=[7, 8, 9])
    assert store.concatenate([b, a], "curve")["tokens"].to_pylist() == [7, 8, 9, 0, 10, 20]


# Digests


def test_the_digest_of_a_table_changes_with_its_content_and_its_provenance(tmp_path):
    same = {store.digest(curve(tmp_path / f"{i}.parquet")) for i in range(2)}
    assert len(same) == 1
    other = curve(tmp_path / "c.parquet", loss_nats=[3.0, 2.0, 1.0])
    store.write_table(tmp_path / "d.parquet", "curve", Provenance("evaluate", {"seed": 4}), CURVE)
    found = same | {store.digest(other), store.digest(tmp_path / "d.parquet")}
    assert len(found) == 3


def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"abc")
    sha256_of_abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert store.digest(tmp_path / "x.bin") == sha256_of_abc


def test_the_digest_of_a_folder_knows_names_and_contents_at_every_depth(tmp_path):
    def folder(name: str, **files: str) -> str:
        for path, text in files.items():
            place = tmp_path / name / path.replace("__", "/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(text)
        return store.digest(tmp_path / name)

    first = folder("a", x="1", sub__y="2")
    assert folder("b", sub__y="2", x="1") == first
    others = [folder("c", x="1", sub__y="3"), folder("d", x="1", sub__z="2"), folder("e", x="1")]
    assert len({first, *others}) == 4


def test_digests_are_named_and_lists_numbered(tmp_path):
    (tmp_path / "x").write_text("1")
    (tmp_path / "y").write_text("2")
    found = store.digests(base=tmp_path / "x", shards=[tmp_path / "y", tmp_path / "x"])
    assert list(found) == ["base", "shards[0]", "shards[1]"]
    assert found["shards[1]"] == found["base"] != found["shards[0]"]
