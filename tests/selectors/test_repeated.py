"""Ids that occur twice: with pool.bad_records skip, the first document stays and later ones go."""

from pathlib import Path

import numpy as np
import pytest

import small
import tables
from groupmates.artefacts.store import Provenance, digests, read_table, write_table
from groupmates.errors import UserError
from groupmates.selectors import take
from groupmates.selectors.order import without_groups
from groupmates.settings import per_stage
from groupmates.settings.sections import Budget
from groupmates.stages import sample

ROWS = [["a", "b", None, "a"], ["c", "b", "d", "a"]]  # None: a bad record
LATER = [("1.jsonl", 3), ("2.jsonl", 1), ("2.jsonl", 3)]


@pytest.fixture
def pool(tmp_path) -> list[str]:
    paths = []
    for number, ids in enumerate(ROWS, 1):
        rows = [{"id": i, "text": f"text {number} {n}"} if i else {} for n, i in enumerate(ids)]
        paths.append(small.write_lines(tmp_path / f"pool/{number}.jsonl", rows))
    return small.marked(tmp_path / "pool", paths)


def checked(pool: list[str], folder: Path, bad_records: str = "skip") -> Path:
    small.check_pool([[path] for path in pool], folder, bad_records, 1.0)
    return folder / "rejects.parquet"


def test_the_check_lists_later_documents_with_their_rows(pool, tmp_path):
    listed = read_table(checked(pool, tmp_path), "rejects").to_pylist()
    found = [(r["source_file"], r["source_row"]) for r in listed if r["reason"] == take.REPEATED]
    assert found == LATER
    assert ("1.jsonl", 2, "no id") in [
        (r["source_file"], r["source_row"], r["reason"]) for r in listed
    ]
    counts = read_table(tmp_path / "files.parquet", "files").to_pylist()
    assert [(c["documents"], c["rejected"]) for c in counts] == [(2, 2), (2, 2)]


def test_without_skip_the_run_stops(tmp_path):
    rows = [{"id": "a", "text": "one"}, {"id": "a", "text": "two"}]
    path = small.write_lines(tmp_path / "pool/1.jsonl", rows)
    with pytest.raises(UserError, match="every document id once"):
        checked(small.marked(tmp_path / "pool", [path]), tmp_path, "stop")


def test_a_sample_has_the_first_document_of_an_id(pool, tmp_path):
    output = {name: tmp_path / f"{name}.parquet" for name in ("probe_pool", "training_pool")}
    sample.run(
        small.sample_settings(2, 2, "skip"), pool=pool, tokenizer=tmp_path / "tokenizer", **output
    )
    drawn = [
        (row["doc_id"], row["source_file"], row["source_row"])
        for name, path in output.items()
        for row in read_table(path, name).to_pylist()
    ]
    assert sorted(drawn) == [
        ("a", "1.jsonl", 0),
        ("b", "1.jsonl", 1),
        ("c", "2.jsonl", 0),
        ("d", "2.jsonl", 2),
    ]


@pytest.mark.parametrize(
    ("budget", "count"), [({"ratio": 1.0, "tokens": None}, 4), ({"ratio": 0.5, "tokens": None}, 2)]
)
def test_later_documents_are_never_taken_and_count_for_no_budget(pool, tmp_path, budget, count):
    score, cluster, orders = [], [], []
    for shard, ids in enumerate(ROWS):
        rows = [n for n, i in enumerate(ids) if i]
        score.append(
            tables.write(
                tmp_path / f"score-{shard}.parquet",
                "score",
                doc_id=[ids[n] for n in rows],
                source_file=f"{shard + 1}.jsonl",
                source_row=rows,
                n_tokens=1,
            )
        )
        cluster.append(
            tables.write(
                tmp_path / f"cluster-{shard}.parquet", "cluster", doc_id=[ids[n] for n in rows]
            )
        )
    made = Provenance("select", {}, digests(score=score))
    for shard, ids in enumerate(ROWS):
        rows = [n for n, i in enumerate(ids) if i]
        # The later ones come first in this order.
        key_N = np.array([0.0 if (f"{shard + 1}.jsonl", n) in LATER else 1.0 + n for n in rows])
        orders.append(tmp_path / f"order-{shard}.parquet")
        write_table(orders[-1], "order", made, without_groups(shard, key_N))
    output = [tmp_path / f"select/m/shard-0000{shard}.parquet" for shard in (0, 1)]
    take.run(
        per_stage.TakeSettings(budget=Budget(**budget)),
        method="m",
        orders=orders,
        score=score,
        cluster=cluster,
        rejects=checked(pool, tmp_path),
        output=output,
    )
    taken = [
        (row["source_file"], row["source_row"])
        for path in output
        for row in read_table(path, "select").to_pylist()
    ]
    assert len(taken) == count
    assert not set(taken) & set(LATER)
