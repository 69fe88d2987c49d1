"""Kinds of pool files: known by their bytes, so that names of other tools are read as they are."""

import bz2
import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from test_readers import PLAIN, refusal

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


@pytest.mark.parametrize("name", ["a.jsonl.zst", "a.jsonl.gz", "a.parquet", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"damaged from its first byte on"])
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
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.jsonl.zst", zstandard.ZstdCompressor().compress(b"")),
    ],
)
def test_an_empty_file_has_no_documents(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert list(read_documents(PoolFile(str(tmp_path / name), name), PLAIN)) == []


def test_a_file_that_another_program_compressed_is_told(tmp_path):
    (tmp_path / "a.jsonl.bz2").write_bytes(bz2.compress(LINE))
    file = PoolFile(str(tmp_path / "a.jsonl.bz2"), "a.jsonl.bz2")
    assert "bzip2" in refusal(lambda: list(read_documents(file, PLAIN))).found
