"""Selection: from scores and clusters to the documents that are taken."""

from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import tables
from groupmates.errors import UserError
from groupmates.maths.greedy import greedy_order
from groupmates.maths.relation import Relation
from groupmates.selectors import random as order_random
from groupmates.selectors import take
from groupmates.settings.config import Budget
from groupmates.settings.per_stage import TakeSettings
from groupmates.settings.selectors import Random
from scored import (
    Pool,
    order_group_mates,
    pool,
    shards_of,
    take_budget,
    unit,
    write_cluster,
    write_model,
    write_pool,
)


def budget(ratio: float | None = 0.3, tokens: int | None = None) -> Budget:
    return Budget(ratio=None if tokens else ratio, tokens=tokens)


BUDGET = budget()


def orders_of_group_mates(
    folder: Path,
    score: list[Path],
    cluster: list[Path],
    partitions: int = 1,
    quota: str = "proportional",
    sign: str = "paper",
    **relation: Any,
) -> list[Path]:
    model = write_model(folder / "model", **relation)
    orders = [folder / f"order-{p:05d}.parquet" for p in range(partitions)]
    return order_group_mates(orders, model, score, cluster, quota=quota, sign=sign)


def selected(
    folder: Path,
    pool: Pool,
    shards: int = 2,
    partitions: int = 1,
    budget: Budget = BUDGET,
    **chosen: Any,
) -> pa.Table:
    score, cluster = write_pool(folder, pool, shards)
    orders = orders_of_group_mates(folder, score, cluster, partitions, **chosen)
    return take_budget(folder, orders, score, cluster, budget)


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return table.to_pylist()


@pytest.mark.parametrize("quota", ["proportional", "marginal"])
@pytest.mark.parametrize("sign", ["paper", "ceiling"])
def test_shards_and_partitions_do_not_change_the_selection(tmp_path, quota, sign):
    first = rows(selected(tmp_path / "first", pool(), 1, 1, quota=quota, sign=sign))
    assert len(first) == 36
    for shards, partitions in [(2, 1), (7, 2), (2, 7), (1, 20)]:
        folder = tmp_path / f"{shards}-{partitions}"
        assert rows(selected(folder, pool(), shards, partitions, quota=quota, sign=sign)) == first


@pytest.mark.parametrize("kernel", ["mean", "nearest"])
@pytest.mark.parametrize("quota", ["proportional", "marginal"])
def test_the_selection_is_greedy_in_every_cluster_up_to_its_quota(tmp_path, kernel, quota):
    documents = pool()
    table = selected(tmp_path, documents, 2, 3, quota=quota, kernel=kernel)
    picks, keys = [], []
    for cluster in np.unique(documents.cluster):
        members = np.flatnonzero(documents.cluster == cluster)
        relation = Relation(kernel, 0.9, 1.2, 16.0)
        order, theta = greedy_order(documents.influence[members], documents.emb[members], relation)
        for rank, document in enumerate(members[order]):
            key = rank / len(members) if quota == "proportional" else theta[: rank + 1].max()
            keys.append((key, rank, document))
            picks.append((document, cluster, rank, theta[rank]))
    kept = {document for _, _, document in sorted(keys)[:36]}
    expected = sorted(pick for pick in picks if pick[0] in kept)
    assert table["doc_id"].to_pylist() == [documents.doc_id[d] for d, *_ in expected]
    assert table["cluster"].to_pylist() == [c for _, c, *_ in expected]
    assert table["rank"].to_pylist() == [r for _, _, r, _ in expected]
    assert table["group_influence"].to_pylist() == [t for *_, t in expected]


def test_a_selected_row_names_its_document_in_its_pool_file(tmp_path):
    documents = pool()
    position = {doc_id: i for i, doc_id in enumerate(documents.doc_id.tolist())}
    for row in rows(selected(tmp_path, documents, 3)):
        i = position[row["doc_id"]]
        assert row["doc_id"] == f"{row['source_file']}#{row['source_row']}"
        assert row["n_tokens"] == documents.n_tokens[i]
        assert row["individual_influence"] == documents.influence[i]
        assert row["cluster"] == documents.cluster[i]


def test_the_sequence_of_the_score_files_does_not_change_which_documents_are_take_budget(tmp_path):
    score, cluster = write_pool(tmp_path, pool(), 7)
    chosen = {"quota": "marginal"}  # the keys of proportional quotas tie between clusters
    orders = orders_of_group_mates(tmp_path, score, cluster, **chosen)
    first = rows(take_budget(tmp_path, orders, score, cluster, budget()))
    turned = [*score[3:], *score[:3]], [*cluster[3:], *cluster[:3]]
    orders = orders_of_group_mates(tmp_path, *turned, **chosen)
    second = rows(take_budget(tmp_path, orders, *turned, budget()))
    assert [row["doc_id"] for row in second] != [row["doc_id"] for row in first]
    assert sorted(second, key=str) == sorted(first, key=str)


def test_an_order_of_score_files_in_another_sequence_is_refused(tmp_path):
    score, cluster = write_pool(tmp_path, pool(), 3)
    orders = orders_of_group_mates(tmp_path, score, cluster)
    with pytest.raises(UserError, match="in another sequence"):
        take_budget(tmp_path, orders, score[::-1], cluster[::-1], budget())


@pytest.mark.parametrize("ratio", [0.01, 0.25, 0.5, 1.0])
def test_proportional_quotas_are_the_papers_and_the_total_is_the_budget(tmp_path, ratio):
    documents = pool()
    table = selected(tmp_path, documents, budget=budget(ratio))
    wanted = max(1, round(ratio * 120))
    assert len(table) == wanted
    given = np.bincount(table["cluster"].to_numpy(), minlength=9)
    sizes = np.bincount(documents.cluster, minlength=9)
    assert all(g <= ceil(wanted * s / 120) for g, s in zip(given, sizes, strict=True))


def test_a_singleton_cluster_is_selected_by_proportional_quotas(tmp_path):
    documents = pool()
    documents.cluster = np.where(np.arange(120) == 77, 5, documents.cluster % 3)
    table = selected(tmp_path, documents, budget=budget(0.1))
    assert documents.doc_id[77] in table["doc_id"].to_pylist()


def test_clusters_without_documents_and_partitions_without_clusters_are_no_error(tmp_path):
    documents = pool()
    documents.cluster = np.where(documents.cluster % 2 == 0, 4, 1000)
    assert len(selected(tmp_path, documents, partitions=7)) == 36


def test_ranks_count_from_zero_within_the_cluster_and_rows_stand_in_pool_order(tmp_path):
    documents = pool()
    for quota in ("proportional", "marginal"):
        table = selected(tmp_path / quota, documents, quota=quota)
        cluster, rank = table["cluster"].to_numpy(), table["rank"].to_numpy()
        for c in set(cluster.tolist()):
            assert sorted(rank[cluster == c]) == list(range((cluster == c).sum()))
        ids = table["doc_id"].to_pylist()
        assert ids == [d for d in documents.doc_id.tolist() if d in set(ids)]


def duplicates() -> Pool:
    """Cluster 0 holds three harmful documents, the worst a copy of the best; 1 the pool's worst."""
    documents = pool(4, size=2)
    documents.influence = np.array([0.1, 0.9, 0.2, 1.0], np.float32)
    documents.emb = unit(np.array([[1, 0], [1, 0], [0, 1], [1, 1]]))
    documents.cluster = np.array([0, 0, 0, 1])
    return documents


@pytest.mark.parametrize(("sign", "second"), [("paper", 1), ("ceiling", 2)])
def test_a_duplicate_of_the_best_is_second_only_under_the_papers_sign(tmp_path, sign, second):
    documents = duplicates()
    table = selected(tmp_path, documents, 2, 2, sign=sign, budget=budget(0.75), alpha=1.0, beta=1.0)
    ranked = {row["rank"]: row["doc_id"] for row in rows(table) if row["cluster"] == 0}
    assert ranked[0] == documents.doc_id[0]
    assert ranked[1] == documents.doc_id[second]


@pytest.mark.parametrize("worst", [0, 1, 3])
def test_the_ceiling_is_the_worst_of_the_whole_pool(tmp_path, worst):
    # The best, 0.1, is picked first in partition 0; the worst, 1.0, is of partition 1, and moves.
    documents = duplicates()
    moved = documents.part(np.insert(np.arange(3), worst, 3))
    moved.doc_id, moved.file, moved.row = documents.doc_id, documents.file, documents.row
    for row in rows(selected(tmp_path, moved, 4, 2, sign="ceiling", budget=budget(1.0))):
        if row["cluster"] == 0 and row["rank"] == 0:
            assert row["group_influence"] == pytest.approx(0.1 - 1.0)


def test_equal_documents_are_taken_in_pool_order(tmp_path):
    documents = pool()
    documents.influence[:] = -1
    documents.emb[:] = documents.emb[0]
    documents.cluster[:] = 3
    table = selected(tmp_path, documents, 7)
    assert table["doc_id"].to_pylist() == documents.doc_id[:36].tolist()


@pytest.mark.parametrize("quota", ["proportional", "marginal"])
def test_a_token_budget_is_met_to_within_one_document(tmp_path, quota):
    table = selected(tmp_path, pool(), quota=quota, budget=budget(tokens=700))
    assert 650 < sum(table["n_tokens"].to_pylist()) <= 700


def test_a_token_budget_beyond_the_pool_is_an_error(tmp_path):
    total = int(pool().n_tokens.sum())
    assert len(selected(tmp_path / "all", pool(), budget=budget(tokens=total))) == 120
    with pytest.raises(UserError, match=r"select\.budget\.tokens"):
        selected(tmp_path / "more", pool(), budget=budget(tokens=total + 1))


@pytest.mark.parametrize("quota", ["proportional", "marginal"])
def test_one_order_serves_every_budget(tmp_path, quota):
    score, cluster = write_pool(tmp_path, pool(), 2)
    orders = orders_of_group_mates(tmp_path, score, cluster, quota=quota)
    for ratio in (0.1, 0.9, 1.0):
        table = take_budget(tmp_path, orders, score, cluster, budget(ratio))
        assert len(table) == round(ratio * 120)


def test_a_document_in_two_orders_is_an_error(tmp_path):
    score, cluster = write_pool(tmp_path, pool(), 2)
    orders = orders_of_group_mates(tmp_path, score, cluster)
    with pytest.raises(UserError, match=r"at most once(.|\n)*shard-0000\d\.parquet twice"):
        take_budget(tmp_path, orders * 2, score, cluster, budget())


@pytest.mark.parametrize("change", ["order", "fewer"])
def test_clusters_of_other_documents_are_an_error(tmp_path, change):
    score, cluster = write_pool(tmp_path, pool(), 2)
    members = shards_of(pool(), 2)[1]
    orders = orders_of_group_mates(tmp_path, score, cluster)
    write_cluster(cluster[1], pool().part(members[::-1] if change == "order" else members[:-1]))
    with pytest.raises(UserError, match=r"shard-00001\.parquet"):
        orders_of_group_mates(tmp_path, score, cluster)
    with pytest.raises(UserError, match=r"shard-00001\.parquet"):
        take_budget(tmp_path, orders, score, cluster, budget())


def test_an_influence_that_is_no_number_is_an_error(tmp_path):
    documents = pool()
    documents.influence[100] = np.nan
    with pytest.raises(UserError, match="finite individual influences"):
        selected(tmp_path, documents)


def random(folder: Path, shards: int, seed: int = 0, ratio: float = 0.3) -> pa.Table:
    score, cluster = write_pool(folder, pool(), shards)
    order = folder / "order.parquet"
    order_random.order(Random.Order(seed=seed), score=score, output=order)
    return take_budget(folder, [order], score, cluster, budget(ratio))


def test_random_does_not_depend_on_shards_but_on_the_seed(tmp_path):
    ids = [random(tmp_path / str(n), n)["doc_id"].to_pylist() for n in (1, 2, 7)]
    assert len(ids[0]) == 36
    assert ids[0] == ids[1] == ids[2]
    assert random(tmp_path / "seed", 2, seed=1)["doc_id"].to_pylist() != ids[0]


def test_a_smaller_random_selection_is_part_of_a_larger_one(tmp_path):
    small = random(tmp_path / "small", 2, ratio=0.1)["doc_id"].to_pylist()
    assert set(small) < set(random(tmp_path / "large", 2, ratio=0.4)["doc_id"].to_pylist())


def test_random_has_no_group_influence_and_takes_every_document_equally_often(tmp_path):
    count = np.zeros(120)
    position = {doc_id: i for i, doc_id in enumerate(pool().doc_id.tolist())}
    for seed in range(40):
        table = random(tmp_path, 2, seed)
        count[[position[d] for d in table["doc_id"].to_pylist()]] += 1
    assert np.isnan(table["group_influence"].to_numpy()).all()
    # Binomial(40, 0.3): mean 12, variance 8.4
    assert 5 < count.var() < 13


def ledger(path: Path, pool: Pool, chosen: np.ndarray) -> Path:
    """A stage of pretraining has consumed these documents."""
    return tables.write(
        path,
        "ledger",
        doc_id=pool.doc_id[chosen],
        source_file=pool.file[chosen],
        source_row=pool.row[chosen],
    )


@pytest.mark.parametrize("shards", [1, 3])
def test_what_earlier_stages_were_trained_on_is_not_taken_again(tmp_path, capsys, shards):
    """In its place come the next documents of the order; the budget is a share of the whole pool."""
    documents = pool()
    score, cluster = write_pool(tmp_path, documents, shards)
    orders = orders_of_group_mates(tmp_path, score, cluster, quota="marginal")
    best = take_budget(tmp_path, orders, score, cluster, budget(0.6))["doc_id"].to_pylist()
    first = take_budget(tmp_path, orders, score, cluster, budget(0.2))["doc_id"].to_pylist()
    gone = np.flatnonzero(np.isin(documents.doc_id, first))[::-1]  # a ledger is in no order
    ledgers = [
        ledger(tmp_path / f"{i}.parquet", documents, part)
        for i, part in enumerate((gone[::2], gone[1::2]))
    ]
    again = take_budget(tmp_path, orders, score, cluster, budget(0.2), consumed=ledgers)
    again = again["doc_id"].to_pylist()
    assert len(first) == len(again) == 24
    assert not set(first) & set(again)
    assert set(again) < set(best)
    assert "stage 2 was trained on 0 tokens of 12 documents: none is taken again" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("wanted", "needed", "left"),
    [(budget(0.3), "36 documents", "30, in"), (budget(tokens=2400), "2,400 tokens", "")],
)
def test_a_stage_for_which_too_little_is_left_is_told_what_was_consumed(
    tmp_path, wanted, needed, left
):
    documents = pool()
    score, cluster = write_pool(tmp_path, documents, 2)
    orders = orders_of_group_mates(tmp_path, score, cluster, quota="marginal")
    consumed = [ledger(tmp_path / "ledger.parquet", documents, np.arange(90))]
    take_budget(tmp_path, orders, score, cluster, wanted)
    with pytest.raises(UserError) as raised:
        take_budget(tmp_path, orders, score, cluster, wanted, consumed=consumed)
    said = str(raised.value)
    assert f"at least {needed} that no earlier stage was trained on" in said
    assert f"{left} 30 documents: of the 120 in the order of any, 90 were trained on" in said
    assert "pretrain.repeat" in said


def test_what_a_larger_pool_left_behind_is_removed(tmp_path: Path) -> None:
    score, cluster = write_pool(tmp_path / "pool", pool(40), 2)
    order, folder = tmp_path / "order", tmp_path / "select"
    order_random.order(Random.Order(seed=0), score=score, output=order)
    folder.mkdir()
    (folder / "shard-00009.parquet").write_bytes(b"old")
    take.run(
        TakeSettings(budget=BUDGET),
        method="random",
        orders=[order],
        score=score,
        cluster=cluster,
        rejects=tables.no_rejects(tmp_path),
        output=[folder / f"shard-{i:05d}.parquet" for i in range(2)],
    )
    assert sorted(p.name for p in folder.iterdir()) == [
        "shard-00000.parquet",
        "shard-00001.parquet",
    ]
