"""Kinds of pool files: known by their bytes, so that names of other tools are read as they are."""

import bz2
import gzip

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from test_readers import PLAIN, refusal, write_stream

from groupmates.pool.copy_rows import copy_rows
from groupmates.pool.documents import read_documents
from groupmates.pool.listing import PoolFile

LINE = b'{"text": "one"}\n'
GZIP, ZSTD = gzip.compress(LINE, mtime=0), zstandard.ZstdCompressor().compress(LINE)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("c4-train.00000-of-01024.json.gz", GZIP),
        ("dolma.jsonl.zstd", ZSTD),
        ("lines.ndjson", LINE),
        ("redpajama.json", LINE),
        ("arxiv.json.zst", ZSTD),
        ("without_suffix", LINE),
        ("unpacked-on-the-way.jsonl.gz", LINE),
        ("packed.jsonl", GZIP),
        ("a.parquet", LINE),
        ("b.parquet", ZSTD),
        ("c.arrow", GZIP),
    ],
)
def test_lines_are_read_by_their_bytes_whatever_the_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (document,) = read_documents(PoolFile(str(tmp_path / name), name), PLAIN)
    assert (document.text, document.doc_id) == ("one", f"{name}#0")


def test_a_parquet_file_without_a_suffix_is_one(tmp_path):
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "part-0")
    (document,) = read_documents(PoolFile(str(tmp_path / "part-0"), "part-0"), PLAIN)
    assert document.text == "one"


@pytest.mark.parametrize("name", ["part-0", "a.parquet", "a.jsonl.gz"])
def test_an_arrow_stream_is_one_whatever_its_name(tmp_path, name):
    write_stream(pa.table({"text": ["one"]}), tmp_path / name)
    file = PoolFile(str(tmp_path / name), name)
    assert [d.text for d in read_documents(file, PLAIN)] == ["one"]
    copy_rows(file, np.array([0]), tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == (tmp_path / name).read_bytes()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl.zst", b"damaged from its first byte on"),
        ("a.jsonl.gz", b"damaged from its first byte on"),
        ("a.parquet", b"damaged from its first byte on"),
        ("a.arrow", b"damaged from its first byte on"),
        ("a.parquet", b""),
        ("a.arrow", b""),
    ],
)
def test_a_file_that_its_name_calls_packed_is_damaged_without_its_first_bytes(
    tmp_path, name, content
):
    (tmp_path / name).write_bytes(content)
    file = PoolFile(str(tmp_path / name), name)
    error = refusal(lambda: list(read_documents(file, PLAIN)))
    assert "damaged" in error.found
    assert error.where == file.path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b""),
        ("a.jsonl.gz", b""),
        ("a.jsonl.zst", b""),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress(b"")),
    ],
)
def test_an_empty_file_has_no_documents(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    file = PoolFile(str(tmp_path / name), name)
    assert list(read_documents(file, PLAIN)) == []
    copy_rows(file, np.array([], np.int64), tmp_path / f"copy-{name}")
    assert list(read_documents(PoolFile(str(tmp_path / f"copy-{name}"), name), PLAIN)) == []


def test_a_file_that_another_program_compressed_is_told(tmp_path):
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(LINE))
    file = PoolFile(str(tmp_path / "a.jsonl.bz2"), "a.jsonl.bz2")
    assert "bzip2" in refusal(lambda: list(read_documents(file, PLAIN))).found
