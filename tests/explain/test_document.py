"""Why a document was selected: the figures that are told are those that the selection computed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import scored
from groupmates import __main__ as cli
from groupmates.artefacts.store import read_table
from groupmates.artefacts.vectors import Vectors
from groupmates.errors import UserError
from groupmates.explain import document as asked
from groupmates.explain.selection import Selection
from groupmates.maths.greedy import greedy_order
from groupmates.maths.relation import Relation
from groupmates.selectors import random as order_random
from groupmates.settings.config import Budget
from groupmates.settings.selectors import Random

RELATIONS = {
    "nearest": {"kernel": "nearest", "alpha": 0.9, "beta": 1.2, "sharpness": 3.0},
    "mean": {"kernel": "mean", "alpha": 0.9, "beta": 1.2, "sharpness": 3.0},
}


@dataclass
class Made:
    """A selection in a run's folder, and the pool that it is of."""

    run: Path
    pool: scored.Pool
    relation: Relation
    quota: str
    sign: str

    def selected(self, method: str = "group_mates") -> list[dict[str, Any]]:
        files = sorted(self.run.glob(f"select/{method}/*.parquet"))
        return pa.concat_tables([read_table(f, "select") for f in files]).to_pylist()

    def gains(self) -> np.ndarray:
        influence = self.pool.influence.astype(np.float64)
        return influence - influence.max() if self.sign == "ceiling" else influence


def make(
    run: Path,
    pool: scored.Pool,
    kernel: str = "nearest",
    quota: str = "marginal",
    sign: str = "paper",
    tokens: int | None = None,
    partitions: int = 1,
    shards: int = 3,
) -> Made:
    score, cluster = scored.write_pool(run, pool, shards)
    model = scored.write_model(run / "fit/final", **RELATIONS[kernel])
    budget = Budget(ratio=None if tokens else 0.3, tokens=tokens)
    orders = [run / f"order/group_mates/part-{p:05d}.parquet" for p in range(partitions)]
    scored.order_group_mates(orders, model, score, cluster, quota=quota, sign=sign)
    drawn = run / "order/random/part-00000.parquet"
    order_random.order(Random.Order(seed=0), score=score, output=drawn)
    for method, made in (("group_mates", orders), ("random", [drawn])):
        scored.take_budget(run, made, score, cluster, budget, method)
    return Made(run, pool, Relation(**RELATIONS[kernel]), quota, sign)


VARIANTS = {
    "nearest": {},
    "mean": {"kernel": "mean"},
    "ceiling": {"sign": "ceiling"},
    "quotas": {"quota": "proportional"},
    "quotas, mean": {"quota": "proportional", "kernel": "mean", "partitions": 2},
    "tokens": {"tokens": 700, "partitions": 3},
    "tokens by quotas": {"tokens": 700, "quota": "proportional"},
}


@pytest.fixture(scope="module", params=VARIANTS, ids=VARIANTS)
def made(request, tmp_path_factory) -> Made:
    run = tmp_path_factory.mktemp("run")
    return make(run, scored.pool(clusters=5, seed=2), **VARIANTS[request.param])


def all_explained(made: Made, method: str = "group_mates") -> list[asked.Explanation]:
    return [asked.explain(made.run, str(i), method, 3) for i in made.pool.doc_id[::2]]


@pytest.fixture(scope="module")
def explained(made) -> list[asked.Explanation]:
    return all_explained(made)


def factor(made: Made, document: int, before: list[int]) -> float:
    """theta / influence by the equation, in plain float64."""
    if not before:
        return 1.0
    emb = made.pool.emb.astype(np.float64)
    cosine = emb[before] @ emb[document]
    alpha, beta, sharpness = made.relation.alpha, made.relation.beta, made.relation.sharpness
    nearest = made.relation.kernel == "nearest"
    related = cosine.clip(0).max() ** sharpness if nearest else cosine.mean()
    return alpha - alpha / beta * related


def test_every_document_is_told_what_the_selection_computed_for_it(made, explained):
    selected = {row["doc_id"]: row for row in made.selected()}
    number = {str(i): n for n, i in enumerate(made.pool.doc_id)}
    influence = made.pool.influence
    for found in explained:
        here, document = found.standing, number[found.doc_id]
        assert here.selected == (found.doc_id in selected)
        assert found.influence == influence[document]
        assert found.share_below == np.mean(influence < influence[document])
        members = np.flatnonzero(made.pool.cluster == made.pool.cluster[document])
        ours = [row for row in selected.values() if number[row["doc_id"]] in members]
        assert (found.cluster, found.size) == (made.pool.cluster[document], len(members))
        assert found.taken == len(ours)
        ours.sort(key=lambda row: row["rank"])
        if here.selected:
            row = selected[found.doc_id]
            assert (here.rank, here.theta) == (row["rank"], row["group_influence"])
            before = [number[r["doc_id"]] for r in ours[: row["rank"]]]
        else:
            last_chance = len(ours) - (made.quota == "proportional")
            before = [number[r["doc_id"]] for r in ours[: max(last_chance, 0)]]
        expected = made.gains()[document] * factor(made, document, before)
        assert here.theta == pytest.approx(expected, abs=2e-5)


def test_the_theta_that_is_needed_lies_between_the_selected_and_the_others(made, explained):
    by_cluster = {}
    for found in explained:
        here = found.standing
        if here.needed is None:
            assert found.taken == 0
            continue
        by_cluster.setdefault(found.cluster, set()).add(here.needed)
        if not here.selected:
            assert here.theta >= here.needed
        elif made.quota == "marginal":
            assert here.theta <= here.needed
    last = max(row["group_influence"] for row in made.selected())
    values = set().union(*by_cluster.values())
    if made.quota == "marginal":
        assert values == {last}
    else:
        ends = {}
        for row in sorted(made.selected(), key=lambda row: row["rank"]):
            ends[row["cluster"]] = row["group_influence"]
        assert by_cluster == {cluster: {theta} for cluster, theta in ends.items()}


def test_ranks_are_those_of_the_greedy_order_of_the_cluster(made, explained):
    rank = {}
    for cluster in np.unique(made.pool.cluster):
        members = np.flatnonzero(made.pool.cluster == cluster)
        picks, _ = greedy_order(made.gains()[members], made.pool.emb[members], made.relation)
        rank |= {str(made.pool.doc_id[members[p]]): r for r, p in enumerate(picks)}
    for found in explained:
        assert found.standing.rank == rank.get(found.doc_id)


def test_neighbours_are_the_nearest_selected_documents_of_the_cluster(made, explained):
    number = {str(i): n for n, i in enumerate(made.pool.doc_id)}
    emb = made.pool.emb.astype(np.float64)
    for found in explained:
        document = number[found.doc_id]
        others = [
            (float(emb[number[row["doc_id"]]] @ emb[document]), row)
            for row in made.selected()
            if row["cluster"] == found.cluster and row["doc_id"] != found.doc_id
        ]
        others.sort(key=lambda pair: -pair[0])
        assert [n.doc_id for n in found.neighbours] == [row["doc_id"] for _, row in others[:3]]
        for near, (cosine, row) in zip(found.neighbours, others, strict=False):
            assert near.similarity == pytest.approx(cosine, abs=1e-5)
            assert (near.rank, near.influence) == (row["rank"], row["individual_influence"])


def test_a_document_with_a_theta_below_the_needed_one_is_selected(tmp_path):
    made = make(tmp_path / "before", scored.pool(clusters=5, seed=2))
    rejected = [f for f in all_explained(made) if not f.standing.selected and f.influence < 0]
    assert len(rejected) > 3
    for n, found in enumerate(rejected[:4]):
        document = list(made.pool.doc_id).index(found.doc_id)
        pool = scored.pool(clusters=5, seed=2)
        kept = found.standing.theta / found.influence
        pool.influence[document] = 1.001 * found.standing.needed / kept
        assert pool.influence[document] < made.pool.influence[document]
        again = make(tmp_path / str(n), pool)
        assert found.doc_id in {row["doc_id"] for row in again.selected()}


@pytest.fixture
def one(tmp_path) -> Made:
    return make(tmp_path / "run", scored.pool())


def test_a_random_selection_knows_ranks_and_no_theta(one):
    selected = {row["doc_id"]: row for row in one.selected("random")}
    for found in all_explained(one, "random"):
        here = found.standing
        assert here.selected == (found.doc_id in selected)
        assert (here.theta, here.needed) == (None, None)
        if here.selected:
            assert here.rank == selected[found.doc_id]["rank"]
        else:
            assert here.rank >= found.taken


def test_only_row_groups_with_documents_that_are_asked_for_are_read(made, monkeypatch):
    read = []
    true = Vectors.block

    def counted(self, first, rows, known):
        read.append((first, rows))
        return true(self, first, rows, known)

    monkeypatch.setattr(Vectors, "block", counted)
    selection = Selection.of(made.run, "group_mates")
    ids, _, emb = selection.read(np.array([[2, 1], [0, 3], [2, 0]]))
    assert len(read) == 2
    third = scored.shards_of(made.pool, 3)[2]
    expected = [third[1], scored.shards_of(made.pool, 3)[0][3], third[0]]
    assert ids == list(made.pool.doc_id[expected])
    assert np.array_equal(emb, made.pool.emb[expected])


def test_an_unknown_document_is_told_with_an_id_that_there_is(one):
    with pytest.raises(UserError, match=r"such as f0\.jsonl#0"):
        asked.explain(one.run, "f0.jsonl#1000", "group_mates", 3)


def test_an_unknown_method_is_told_with_those_that_there_are(one):
    with pytest.raises(UserError, match="there are group_mates, random"):
        asked.explain(one.run, "f0.jsonl#0", "mates", 3)


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("score/shard-00001.parquet", None),
        ("cluster/shard-00000.parquet", None),
        ("order/group_mates/part-00000.parquet", None),
        ("fit/final/relation.json", "fit/final"),
    ],
)
def test_figures_of_a_selection_whose_inputs_have_changed_are_not_told(one, name, target):
    """Snakemake alone, which was advised, had nothing to do."""
    other = make(one.run.parent / "other", scored.pool(130, seed=9), kernel="mean")
    shutil.copy(other.run / name, one.run / name)
    for _ in ("another", "deleted"):
        with pytest.raises(UserError, match=r"that .* was made from") as caught:
            asked.explain(one.run, "f0.jsonl#0", "group_mates", 3)
        assert caught.value.where == str(one.run / (target or name))
        assert f"--force {one.run / (target or name)}\n" in caught.value.todo
        (one.run / name).unlink(missing_ok=True)


def test_a_cluster_of_which_nothing_is_selected_is_told(tmp_path, capsys):
    pool = scored.pool()
    pool.influence[pool.cluster == 0] = 5.0 + pool.influence[pool.cluster == 0]
    made = make(tmp_path, pool)
    doc_id = str(pool.doc_id[np.flatnonzero(pool.cluster == 0)[0]])
    assert cli.main(["explain", str(made.run), doc_id]) == 0
    told = capsys.readouterr().out
    assert "0 selected" in told
    assert "not selected" in told
    assert "there is none" in told


def test_the_command_line_tells_every_figure(one, capsys):
    row = next(r for r in one.selected() if r["rank"] == 1)
    assert cli.main(["explain", str(one.run), row["doc_id"], "--neighbours", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    told = {line[:14].strip(): line[14:] for line in lines}
    assert told["document"].startswith(f"{row['doc_id']}: row {row['source_row']} of ")
    assert f"{row['individual_influence']:+.4g}" in told["influence"]
    assert told["cluster"].startswith(f"{row['cluster']}: ")
    assert told["rank"].startswith("1, ")
    assert told["group_mates"] == "selected"
    assert told["theta"].startswith(f"{row['group_influence']:+.6g} when picked")
    assert len(lines) == 8


@pytest.mark.parametrize("wrong", [["some id", "--neighbours", "-1"], []])
def test_a_wrong_command_line_is_refused(wrong, tmp_path):
    assert cli.main(["explain", str(tmp_path), *wrong]) == 2
