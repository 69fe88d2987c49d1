"""Runs so small that there is nothing of a kind to show."""

import numpy as np

import tables
from groupmates.report.data.survey import documents_at


def test_no_places_are_a_table_without_rows(tmp_path):
    """A selection of one document has none beside it: the report ended after everything was done."""
    row = {"doc_id": ["a"], "source_file": "f", "source_row": [0]}
    score = [tables.write(tmp_path / "shard-00000.parquet", "score", **row)]
    cluster = [tables.write(tmp_path / "cluster.parquet", "cluster", doc_id=["a"])]
    kept = [np.packbits(np.array([True]))]
    one = documents_at(score, cluster, kept, [(0, 0)])
    nothing = documents_at(score, cluster, kept, [])
    assert (one.num_rows, nothing.num_rows) == (1, 0)
    assert nothing.schema == one.schema
