"""The whole pool is read once before anything else: what is in it, and every id once."""

import hashlib

import numpy as np
import pytest

import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError


def dealt(folder, bounds):
    rows = small.documents(40)
    return [
        small.write_lines(folder / f"pool/{i}.jsonl", rows[a:b]) for i, (a, b) in enumerate(bounds)
    ]


def test_the_list_of_files_has_their_sizes_digests_and_documents(tmp_path):
    pool = dealt(tmp_path, [(0, 14), (14, 27), (27, 40)])
    files = small.marked(tmp_path / "pool", pool)
    shards = small.check_pool([files[:2], files[2:]], tmp_path)
    assert read_table(tmp_path / "files.parquet", "files").to_pylist() == [
        {
            "source_file": f"{i}.jsonl",
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "documents": documents,
            "rejected": 0,
        }
        for i, (path, documents) in enumerate(zip(pool, (14, 13, 13), strict=True))
    ]
    hashes = [h for s in shards for row in read_table(s, "check")["id_hashes"] for h in row.as_py()]
    assert len(np.unique(np.array(hashes, np.uint64))) == 40


def test_ids_that_occur_twice_are_refused_with_both_places(tmp_path):
    pool = dealt(tmp_path, [(0, 20), (19, 40)])
    with pytest.raises(UserError, match="every document id once") as caught:
        small.check_pool([[file] for file in small.marked(tmp_path / "pool", pool)], tmp_path)
    assert caught.value.found.startswith("1 ids")
    assert "doc-019" in caught.value.where
    assert f"{pool[0]}, line 20" in caught.value.where
    assert f"{pool[1]}, line 1" in caught.value.where
    assert not (tmp_path / "files.parquet").exists()


def test_a_file_without_documents_is_listed_with_none(tmp_path):
    pool = dealt(tmp_path, [(0, 20), (20, 20), (20, 40)])
    small.check_pool([small.marked(tmp_path / "pool", pool)], tmp_path)
    files = read_table(tmp_path / "files.parquet", "files", ["documents"])
    assert files["documents"].to_pylist() == [20, 0, 20]
