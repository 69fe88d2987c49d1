"""Pool files and reference examples: what is read, what is refused, what a copy keeps."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from groupmates.errors import UserError
from groupmates.pool import text_lines as lines_module
from groupmates.pool.copy_rows import copy_rows
from groupmates.pool.documents import read_documents
from groupmates.pool.identity import sha256_of
from groupmates.pool.listing import PoolFile
from groupmates.settings.config import PoolColumns

COLUMNS = PoolColumns(text="text", id="id", source="source")
PLAIN = PoolColumns(text="text", id=None, source=None)
LINES = (".jsonl", ".jsonl.gz", ".jsonl.zst")
KINDS = (*LINES, ".parquet", ".arrow")


def compressed(content: bytes) -> bytes:
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


PACKED = {".jsonl": bytes, ".jsonl.gz": gzip.compress, ".jsonl.zst": compressed}


def pool_file(folder: Path, content: bytes, suffix: str = ".jsonl") -> PoolFile:
    path = folder / f"part{suffix}"
    path.write_bytes(PACKED[suffix](content))
    return PoolFile(str(path), f"web/part{suffix}")


def write_stream(table: pa.Table, path: Path, batch_rows: int = 2) -> None:
    """As save_to_disk writes one."""
    with pa.OSFile(str(path), "wb") as raw, pa.ipc.new_stream(raw, table.schema) as stream:
        stream.write_table(table, max_chunksize=batch_rows)


def documents_file(folder: Path, rows: list[dict], suffix: str) -> PoolFile:
    if suffix in LINES:
        return pool_file(folder, b"".join(orjson.dumps(row) + b"\n" for row in rows), suffix)
    path, table = folder / f"part{suffix}", pa.Table.from_pylist(rows)
    if suffix == ".arrow":
        write_stream(table, path)
    else:
        pq.write_table(table, path, row_group_size=2)
    return PoolFile(str(path), f"web/part{suffix}")


def copied_lines(file: PoolFile, rows: list[int], folder: Path) -> bytes:
    """The uncompressed bytes of a copy."""
    destination = folder / "copy"
    copy_rows(file, np.array(rows, np.int64), destination)
    content = destination.read_bytes()
    if file.path.endswith(".gz"):
        return gzip.decompress(content)
    if file.path.endswith(".zst"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    return content


def refusal(action: Callable[[], object]) -> UserError:
    with pytest.raises(UserError) as caught:
        action()
    return caught.value


def read_refusal(file: PoolFile, columns: PoolColumns = COLUMNS) -> UserError:
    return refusal(lambda: list(read_documents(file, columns)))


# Reading


@pytest.mark.parametrize("suffix", KINDS)
def test_every_format_gives_the_same_documents_with_rows_counted_from_0(tmp_path, suffix):
    rows = [
        {"id": "a", "text": "one\ntwo", "source": "web", "score": 1.5},
        {"id": "b", "text": "dæ☃", "source": None, "score": 2.5},
        {"id": "c", "text": " x ", "source": "book", "score": 3.5},
    ]
    found = list(read_documents(documents_file(tmp_path, rows, suffix), COLUMNS))
    assert [(d.row, d.doc_id, d.text, d.source) for d in found] == [
        (0, "a", "one\ntwo", "web"),
        (1, "b", "dæ☃", ""),
        (2, "c", " x ", "book"),
    ]


@pytest.mark.parametrize("suffix", KINDS)
def test_without_an_id_field_ids_are_name_and_row(tmp_path, suffix):
    file = documents_file(tmp_path, [{"text": "one"}, {"text": "two"}], suffix)
    found = [d.doc_id for d in read_documents(file, PLAIN)]
    assert found == [f"web/part{suffix}#0", f"web/part{suffix}#1"]


@pytest.mark.parametrize("suffix", KINDS)
def test_numeric_ids_become_strings_and_an_absent_source_is_empty(tmp_path, suffix):
    file = documents_file(tmp_path, [{"id": 7, "text": "one"}], suffix)
    assert [(d.doc_id, d.source) for d in read_documents(file, COLUMNS)] == [("7", "")]


def test_a_last_line_without_line_end_and_windows_line_ends_are_read(tmp_path):
    file = pool_file(tmp_path, b'{"text": "one"}\r\n{"text": "two"}')
    assert [d.text for d in read_documents(file, PLAIN)] == ["one", "two"]


@pytest.mark.parametrize("chunk", [1, 3, 1 << 18])
def test_frames_skippable_frames_and_chunks_may_cut_anywhere(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr("groupmates.pool.text_lines.CHUNK_BYTES", chunk)
    lines = b"".join(orjson.dumps({"text": f"text {i}" * 5}) + b"\n" for i in range(30))
    skippable = struct.pack("<II", 0x184D2A50, 5) + b"index"
    path = tmp_path / "part.jsonl.zst"
    path.write_bytes(
        compressed(lines[:100]) + skippable + compressed(lines[100:]) + compressed(b"") + skippable
    )
    file = PoolFile(str(path), path.name)
    assert [d.text for d in read_documents(file, PLAIN)] == [f"text {i}" * 5 for i in range(30)]
    assert copied_lines(file, list(range(30)), tmp_path) == lines


def test_archives_with_a_window_above_the_usual_128_mb_are_read(tmp_path):
    line = b'{"text": "one"}\n'
    window = bytes([0, (28 - 10) << 3])  # 256 MB, as `zstd --long=28` declares it
    block = (len(line) << 3 | 1).to_bytes(3, "little")  # the last block, not compressed
    path = tmp_path / "part.jsonl.zst"
    path.write_bytes(zstandard.MAGIC_NUMBER.to_bytes(4, "little") + window + block + line)
    assert [d.text for d in read_documents(PoolFile(str(path), path.name), PLAIN)] == ["one"]


def test_reading_begins_before_the_file_has_been_read_to_its_end(tmp_path):
    line = b'{"text": "one"}\n'
    file = pool_file(tmp_path, line * (lines_module.CHUNK_BYTES // len(line) * 2) + b"broken\n")
    assert next(iter(read_documents(file, PLAIN))).text == "one"


def test_parquet_reading_takes_only_the_columns_it_needs(tmp_path, monkeypatch):
    asked = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(
        pq.ParquetFile,
        "iter_batches",
        lambda self, **options: asked.append(options["columns"]) or original(self, **options),
    )
    file = documents_file(
        tmp_path, [{"id": "a", "text": "one", "embedding": [0.5] * 9}], ".parquet"
    )
    list(read_documents(file, COLUMNS))
    assert asked == [["text", "id"]]


# Refusing


@pytest.mark.parametrize(
    ("values", "expected", "found"),
    [
        ({"id": ["a", "b"], "text": ["one", None]}, "'text'", "null"),
        ({"id": ["a", "b"], "text": ["one", "  "]}, "'text'", "white space"),
        ({"id": ["a", None], "text": ["one", "two"]}, "'id'", "None"),
    ],
)
def test_a_bad_parquet_row_is_named_by_its_number(tmp_path, values, expected, found):
    path = tmp_path / "part.parquet"
    pq.write_table(pa.table(values), path)
    error = read_refusal(PoolFile(str(path), path.name))
    assert expected in error.expected
    assert found in error.found
    assert error.where == f"{path}, row 2"


@pytest.mark.parametrize(("missing", "setting"), [("text", "text"), ("id", "id")])
def test_a_missing_parquet_column_names_those_present_and_the_setting(tmp_path, missing, setting):
    row = {"id": "a", "text": "one", "url": "u"}
    del row[missing]
    error = read_refusal(documents_file(tmp_path, [row], ".parquet"))
    assert f"'{missing}'" in error.expected
    assert "'url'" in error.found
    assert f"pool.columns.{setting}" in error.todo


@pytest.mark.parametrize("suffix", KINDS)
def test_a_missing_file_is_refused(tmp_path, suffix):
    file = PoolFile(str(tmp_path / f"none{suffix}"), "none")
    for error in (
        read_refusal(file),
        refusal(lambda: copy_rows(file, np.arange(1), tmp_path / "copy")),
        refusal(lambda: sha256_of(file.path)),
    ):
        assert error.found == "none"
        assert error.where == file.path
        assert "correct the path" in error.todo


# What of the file is left, by the content as it was and the middle of it.
DAMAGES: dict[str, Callable[[bytes, int], bytes]] = {
    "truncated zst": lambda content, half: content[:half],
    "last byte off zst": lambda content, half: content[:-1],
    "corrupt zst": lambda content, half: content[:half] + bytes(8) + content[half + 8 :],
    "garbage after zst": lambda content, half: content + b"garbage",
    "truncated gz": lambda content, half: content[:half],
    "last byte off gz": lambda content, half: content[:-1],
    "corrupt gz": lambda content, half: content[:half] + bytes(8) + content[half + 8 :],
    "checksum off gz": lambda content, half: content[:-8] + bytes(8),
    "garbage after gz": lambda content, half: content + b"garbage",
    "truncated parquet": lambda content, half: content[:half],
    "corrupt parquet": lambda content, half: content[:4] + bytes(200) + content[204:],
    "empty parquet": lambda content, half: b"",
    "truncated arrow": lambda content, half: content[:half],
    "end off arrow": lambda content, half: content[:-8],
    "two in one arrow": lambda content, half: content + content,
    "schema off arrow": lambda content, half: bytes(64) + content[64:],
    "empty arrow": lambda content, half: b"",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_by_reading_and_by_copying(tmp_path, damage):
    rows = [{"id": str(i), "text": f"document {i * i} " * 20} for i in range(200)]
    (suffix,) = [kind for kind in KINDS[1:] if kind.split(".")[-1] == damage.split()[-1]]
    file = documents_file(tmp_path, rows, suffix)
    content = Path(file.path).read_bytes()
    Path(file.path).write_bytes(DAMAGES[damage](content, len(content) // 2))
    for error in (
        read_refusal(file),
        refusal(lambda: copy_rows(file, np.arange(1), tmp_path / "copy")),
    ):
        assert "damaged" in error.found
        assert error.where == file.path
        assert "again" in error.todo


def test_a_changed_letter_in_a_parquet_page_with_checksum_is_refused(tmp_path):
    path = tmp_path / "part.parquet"
    table = pa.table({"text": ["the one letter"]})
    options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(table, path, write_page_checksum=True, **options)
    path.write_bytes(path.read_bytes().replace(b"the one", b"the two"))
    file = PoolFile(str(path), path.name)
    assert "damaged" in read_refusal(file, PLAIN).found
    assert "damaged" in refusal(lambda: copy_rows(file, np.arange(1), tmp_path / "copy")).found


# Copying

ODD_LINES = [
    b'{"text": "plain"}',
    b'  {"text" :\t"odd  space" }  ',
    '{"text": "dæ☃ \u2028 \x85 𝄞"}'.encode(),
    b'{"text": "\\u00e9 escaped", "n": 1.50e+3, "n": 2}',
    b'{"text": "windows"}\r',
    b"not JSON, \xff not UTF-8, \x00 \x0b \x0c\x1c",
    b"",
]


@pytest.mark.parametrize("suffix", LINES)
@pytest.mark.parametrize("chunk", [1, 7, 1 << 18])
def test_copied_lines_are_the_same_bytes(tmp_path, monkeypatch, suffix, chunk):
    monkeypatch.setattr("groupmates.pool.text_lines.CHUNK_BYTES", chunk)
    file = pool_file(tmp_path, b"\n".join([*ODD_LINES, b"last"]), suffix)
    expected = b"".join(line + b"\n" for line in [*ODD_LINES, b"last"])
    assert copied_lines(file, list(range(8)), tmp_path) == expected
    assert copied_lines(file, [2, 7], tmp_path) == ODD_LINES[2] + b"\nlast\n"


@settings(max_examples=40, deadline=None)
@given(
    lines=st.lists(st.binary(max_size=30).map(lambda b: b.replace(b"\n", b"")), min_size=1),
    chosen=st.randoms(use_true_random=False),
    frame=st.integers(1, 60),
    chunk=st.integers(1, 40),
    suffix=st.sampled_from(LINES),
)
def test_any_lines_at_any_rows_come_out_unchanged(
    tmp_path_factory, lines, chosen, frame, chunk, suffix
):
    folder = tmp_path_factory.mktemp("copy")
    lines = [b"{", *lines]  # by its first bytes, a file of lines
    rows = sorted(chosen.sample(range(len(lines)), chosen.randint(0, len(lines))))
    content = b"".join(line + b"\n" for line in lines)
    path = folder / f"part{suffix}"
    frames = [PACKED[suffix](content[i : i + frame]) for i in range(0, len(content), frame)]
    path.write_bytes(b"".join(frames))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("groupmates.pool.text_lines.CHUNK_BYTES", chunk)
        found = copied_lines(PoolFile(str(path), path.name), rows, folder)
    assert found == b"".join(lines[row] + b"\n" for row in rows)


def nested_table() -> pa.Table:
    fields = [
        pa.field("text", pa.large_string(), nullable=False, metadata={"unit": "none"}),
        pa.field("meta", pa.struct([("url", pa.string()), ("hits", pa.list_(pa.int32()))])),
        pa.field("labels", pa.map_(pa.string(), pa.float32())),
        pa.field("embedding", pa.list_(pa.float32(), 2)),
        pa.field("source", pa.dictionary(pa.int32(), pa.string())),
        pa.field("crawled", pa.timestamp("us", tz="UTC")),
    ]
    rows = [
        {
            "text": f"text {i}",
            "meta": {"url": f"u{i}", "hits": list(range(i % 3))} if i % 4 else None,
            "labels": [("a", float(i))] if i % 2 else None,
            "embedding": [float(i), -1.0],
            "source": ["web", "book"][i % 2],
            "crawled": 1_000_000 * i,
        }
        for i in range(20)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(fields, metadata={"made": "by hand"}))


@pytest.mark.parametrize("rows", [[0], [19], [0, 6, 7, 13, 19], list(range(20)), []])
def test_copied_parquet_rows_keep_nested_columns_schema_and_metadata(tmp_path, rows):
    table = nested_table()
    path, copy = tmp_path / "part.parquet", tmp_path / "copy"
    pq.write_table(table, path, row_group_size=7, compression={"text": "zstd", "crawled": "none"})
    copy_rows(PoolFile(str(path), path.name), np.array(rows, np.int64), copy)
    found = pq.ParquetFile(copy)
    assert found.schema_arrow.equals(pq.ParquetFile(path).schema_arrow, check_metadata=True)
    assert found.schema_arrow.metadata[b"made"] == b"by hand"
    assert found.read().to_pylist() == table.take(pa.array(rows, pa.int64())).to_pylist()
    assert found.metadata.num_row_groups == len({row // 7 for row in rows})
    if rows:
        group = found.metadata.row_group(0)
        codecs = {group.column(i).path_in_schema: group.column(i).compression for i in range(2)}
        assert codecs["text"] == "ZSTD"


def test_a_copied_column_has_a_dictionary_only_where_it_was_small(tmp_path):
    long = [f"{i} " * 100_000 for i in range(8)]
    path, copy = tmp_path / "part.parquet", tmp_path / "copy"
    pq.write_table(pa.table({"text": long, "source": ["web"] * 8}), path)
    copy_rows(PoolFile(str(path), path.name), np.arange(8), copy)
    group = pq.ParquetFile(copy).metadata.row_group(0)
    assert [group.column(i).has_dictionary_page for i in (0, 1)] == [False, True]
    assert pq.read_table(copy)["text"].to_pylist() == long


@pytest.mark.parametrize("suffix", KINDS)
def test_no_rows_make_a_valid_file_without_documents(tmp_path, suffix):
    file = documents_file(tmp_path, [{"id": "a", "text": "one"}], suffix)
    copy = tmp_path / f"copy{suffix}"
    copy_rows(file, np.array([], np.int64), copy)
    assert list(read_documents(PoolFile(str(copy), "copy"), COLUMNS)) == []


@pytest.mark.parametrize("suffix", KINDS)
def test_rows_past_the_end_say_that_the_pool_has_changed(tmp_path, suffix):
    file = documents_file(tmp_path, [{"id": str(i), "text": "one"} for i in range(5)], suffix)
    copy_rows(file, np.array([4]), tmp_path / "copy")
    error = refusal(lambda: copy_rows(file, np.array([1, 5]), tmp_path / "copy"))
    assert "at least 6 documents" in error.expected
    assert error.found == "5"
    assert error.where == file.path
    assert "old file back" in error.todo


def test_sha256_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert sha256_of(path).startswith(
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
