"""A pool file is known by its bytes: another one under its name is refused wherever it is read."""

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from test_readers import PLAIN, refusal

from groupmates.pool import identity as module
from groupmates.pool.chosen_rows import chosen_texts
from groupmates.pool.copy_rows import convert_rows, copy_rows
from groupmates.pool.documents import read_documents
from groupmates.pool.identity import identified, identity, sha256_of
from groupmates.pool.listing import PoolFile

ROWS = np.array([0])
READERS = {
    "documents": lambda file, to: list(read_documents(file, PLAIN)),
    "texts": lambda file, to: list(chosen_texts(file, ROWS, "text")),
    "copy": lambda file, to: copy_rows(file, ROWS, to),
    "conversion": lambda file, to: convert_rows(file, ROWS, pa.array(["a"]), "text", to),
}


@pytest.fixture(autouse=True)
def read_by_another_process():
    module._verify.cache_clear()


def write(path: Path, text: str) -> None:
    path.write_text(f'{{"text": "{text}"}}\n')


def known_file(path: Path) -> PoolFile:
    known = {path.name: identity(path.stat().st_size, sha256_of(path))}
    (file,) = identified([PoolFile(str(path), path.name)], known)
    return file


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("text", ["longer than before", "other"])
def test_a_file_that_was_replaced_is_refused_whatever_its_time(tmp_path, reader, text):
    path = tmp_path / "a.jsonl"
    write(path, "first")
    file = known_file(path)
    time = path.stat().st_mtime
    write(path, text)
    os.utime(path, (time - 1e6, time - 1e6))  # as rsync -a, cp -p and tar leave it
    error = refusal(lambda: READERS[reader](file, tmp_path / "to"))
    assert error.where == str(path)
    assert "18 bytes" in error.expected
    assert f"{path.stat().st_size} bytes" in error.found
    assert "`touch` it" in error.todo


@pytest.mark.parametrize("reader", READERS)
def test_the_file_that_was_scored_is_read_wherever_it_lies_and_whatever_its_time(tmp_path, reader):
    path = tmp_path / "a.jsonl"
    write(path, "first")
    file = known_file(path)
    os.utime(path, (0, 0))
    READERS[reader](file, tmp_path / "to")


def test_a_file_that_was_not_scored_is_refused(tmp_path):
    error = refusal(lambda: identified([PoolFile("b.jsonl", "b.jsonl")], {}))
    assert error.where == "b.jsonl"
