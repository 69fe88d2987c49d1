"""The selectors beside group_mates and random: each writes an order that the budget is taken from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file, save_file

import tables
from groupmates.artefacts.store import Provenance, read_table
from groupmates.errors import UserError
from groupmates.maths.gumbel import gumbel_keys
from groupmates.maths.randomness import priorities
from groupmates.models.quality import QualityClassifier
from groupmates.models.tokenizer import train_tokenizer
from groupmates.pool import identity
from groupmates.selectors import group_mates as order_of_groups
from groupmates.selectors import mates as order_mates
from groupmates.selectors import quality
from groupmates.selectors import semdedup as order_semdedup
from groupmates.settings.config import Budget, PoolColumns
from groupmates.settings.per_stage import OneStepPlanSettings
from groupmates.settings.selectors import Mates, Quality, SemDedup
from groupmates.stages import draw_rollouts
from scored import (
    Pool,
    order_group_mates,
    pool,
    take_budget,
    unit,
    write_centroids,
    write_model,
    write_pool,
    write_score,
)
from small import marked, write_lines

MADE = Provenance("test", {})
PLAIN = PoolColumns(text="text", id="id", source=None)


def taken(folder: Path, orders: list[Path], pool_files, ratio: float = 0.25) -> list[str]:
    table = take_budget(folder, orders, *pool_files, Budget(ratio=ratio, tokens=None))
    return table["doc_id"].to_pylist()


# group_mates, its ablations


def group_mates(
    folder: Path, pool_files, relation="fitted", scored_by=None, **fitted: float
) -> list[str]:
    order_group_mates(
        [folder / "order.parquet"],
        write_model(folder / "model", **fitted),
        *pool_files,
        scored_by,
        relation=relation,
    )
    return taken(folder, [folder / "order.parquet"], pool_files)


def test_without_relation_the_documents_of_lowest_influence_are_taken(tmp_path):
    documents = pool()
    best = np.sort(np.argsort(documents.influence, kind="stable")[:30])
    found = group_mates(tmp_path, write_pool(tmp_path, documents, 2), relation="none")
    assert found == documents.doc_id[best].tolist()
    assert found != group_mates(tmp_path / "with", write_pool(tmp_path / "with", documents, 2))


def test_a_unit_relation_is_the_kernel_without_its_fitted_parameters(tmp_path):
    documents = pool()
    found = group_mates(tmp_path, write_pool(tmp_path, documents, 2), relation="unit")
    fitted = {"alpha": 1.0, "beta": 1.0}
    files = write_pool(tmp_path / "by hand", documents, 2)
    assert found == group_mates(tmp_path / "by hand", files, **fitted)
    assert found != group_mates(tmp_path / "fitted", write_pool(tmp_path / "fitted", documents, 2))


def other_scores(folder: Path, documents: Pool, shards: int, influence: np.ndarray) -> list[Path]:
    changed = Pool(**{**vars(documents), "influence": influence.astype(np.float32)})
    return write_pool(folder, changed, shards)[0]


def test_a_cluster_that_takes_long_is_told(tmp_path, monkeypatch, capsys):
    documents = pool()
    largest = np.bincount(documents.cluster).max()
    for large, relation, told in ((0, 0, False), (0, 1, True), (1, 1, False)):
        monkeypatch.setattr(order_of_groups, "LARGE_CLUSTER", largest - 1 + large)
        folder = tmp_path / f"{large}{relation}"
        group_mates(folder, write_pool(folder, documents, 2), ["none", "fitted"][relation])
        assert (f"a cluster has {largest:,} documents" in capsys.readouterr().err) == told


def test_the_scores_of_another_model_decide_where_they_are_given(tmp_path):
    documents = pool()
    files = write_pool(tmp_path, documents, 2)
    others = other_scores(tmp_path / "other", documents, 2, -documents.influence)
    worst = np.sort(np.argsort(-documents.influence, kind="stable")[:30])
    found = group_mates(tmp_path, files, relation="none", scored_by=others)
    assert found == documents.doc_id[worst].tolist()


# mates


def mates(folder: Path, pool_files, scored_by, temperature: float, seed: int = 0) -> list[str]:
    settings = Mates.Order(seed=seed, mates=Mates(temperature=temperature))
    order = folder / "order.parquet"
    order_mates.order(settings, score=pool_files[0], scored_by=scored_by, output=order)
    return taken(folder, [order], pool_files)


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_mates_draws_by_the_single_step_influence_whatever_the_shards(tmp_path, temperature):
    documents = pool()
    influence = np.random.default_rng(3).normal(2.0, 5.0, 120).astype(np.float32)
    standard = (influence.astype(float) - influence.astype(float).mean()) / influence.astype(
        float
    ).std()
    uniform = priorities(0, "mates", documents.doc_id.tolist()) / 2.0**64
    first = np.argsort(gumbel_keys(standard, uniform, temperature), kind="stable")[:30]
    for shards in (1, 2, 7):
        folder = tmp_path / str(shards)
        others = other_scores(folder / "other", documents, shards, influence)
        found = mates(folder, write_pool(folder, documents, shards), others, temperature)
        assert found == documents.doc_id[np.sort(first)].tolist()


def test_mates_with_another_seed_draws_others_and_without_noise_the_same(tmp_path):
    documents = pool()
    files = write_pool(tmp_path, documents, 2)
    drawn = {
        t: [set(mates(tmp_path, files, files[0], t, seed)) for seed in (0, 1)] for t in (0.0, 1.0)
    }
    assert drawn[0.0][0] == drawn[0.0][1]
    assert drawn[1.0][0] != drawn[1.0][1]


def test_single_step_scores_of_other_documents_are_refused(tmp_path):
    documents = pool()
    files = write_pool(tmp_path, documents, 1)
    other = write_score(tmp_path / "other.parquet", documents.part(np.arange(120)[::-1]))
    with pytest.raises(UserError, match=r"other\.parquet"):
        mates(tmp_path, files, [other], 0.5)


def test_single_steps_are_of_distinct_documents_of_the_probe_pool(tmp_path):
    probe_pool, output = tmp_path / "probe_pool.parquet", tmp_path / "rollouts.parquet"
    ids = [f"d{i}" for i in range(30)]
    tables.write(probe_pool, "probe_pool", doc_id=ids)
    draw_rollouts.run_one_step(
        OneStepPlanSettings(seed=0, steps=20), probe_pool=probe_pool, output=output
    )
    plan = read_table(output, "rollouts")
    assert plan["rollout"].to_pylist() == list(range(20))
    assert set(plan["step"].to_pylist()) == {1}
    assert len(set(plan["doc_id"].to_pylist()) & set(ids)) == 20


# semdedup


def semdedup(folder: Path, documents: Pool, shards: int, partitions: int, ratio=0.25) -> list[str]:
    files = write_pool(folder, documents, shards)
    centroids = folder / "centroids.npy"
    clusters = int(documents.cluster.max()) + 1
    centres = unit(
        np.stack([documents.emb[documents.cluster == c].sum(0) for c in range(clusters)])
    )
    write_centroids(centroids, centres)
    orders = [folder / f"order-{p}.parquet" for p in range(partitions)]
    for partition, output in enumerate(orders):
        order_semdedup.order(
            SemDedup.Order(seed=0, semdedup=SemDedup(clusters="influence", threshold=0.999)),
            score=files[0],
            cluster=files[1],
            centroids=centroids,
            partition=partition,
            partitions=partitions,
            output=output,
        )
    return taken(folder, orders, files, ratio)


def with_copies() -> Pool:
    """Documents 60 to 119 are copies of the first 60."""
    half = pool(60)
    doubled = half.part(np.tile(np.arange(60), 2))
    names = pool(120)
    return Pool(**{**vars(doubled), "doc_id": names.doc_id, "file": names.file, "row": names.row})


def test_semdedup_takes_one_of_each_pair_of_copies_and_the_rest_at_random(tmp_path):
    documents = with_copies()
    everything = semdedup(tmp_path, documents, 2, 1, ratio=0.5)
    assert everything == documents.doc_id[:60].tolist()
    key = priorities(0, "select", documents.doc_id[:60].tolist())
    some = semdedup(tmp_path / "some", documents, 2, 1)
    assert some == documents.doc_id[np.sort(np.argsort(key)[:30])].tolist()


def test_semdedup_does_not_depend_on_shards_and_partitions(tmp_path):
    first = semdedup(tmp_path / "1", with_copies(), 1, 1)
    for shards, partitions in [(2, 3), (7, 2)]:
        assert semdedup(tmp_path / f"{shards}", with_copies(), shards, partitions) == first


def test_a_budget_that_the_rest_cannot_meet_is_told_with_what_to_change(tmp_path):
    with pytest.raises(UserError) as caught:
        semdedup(tmp_path, with_copies(), 2, 1, ratio=0.6)
    assert (caught.value.expected, caught.value.found) == (
        "at least 72 documents in the method's order",
        "60",
    )
    assert "select.semdedup.threshold" in caught.value.todo


# quality

QUALITY = Quality(positives=["x"], ngrams=2, hash_bits=12, penalty=1.0)
GOOD = [f"the answer to question {i} is a careful explanation of step {i}" for i in range(40)]
BAD = [f"buy cheap {i} now click {i} here best price {i}" for i in range(60)]


def sampled(path: Path, texts: list[str]) -> Path:
    ids = [f"{path.stem}{i}" for i in range(len(texts))]
    return tables.write(path, path.stem, doc_id=ids, source_row=range(len(texts)), text=texts)


def fitted(folder: Path, good: list[str] = GOOD, positives="files") -> Path:
    tokenizer = train_tokenizer(GOOD + BAD, 400)
    tokenizer.save_pretrained(folder / "tokenizer")
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in GOOD]
    reference = tables.write(
        folder / "reference.parquet",
        "reference",
        example_id=[str(i) for i in range(len(ids))],
        split=["selection"] * 20 + ["evaluation"] * 20,
        input_ids=ids,
        label_start=1,
    )
    files = [write_lines(folder / "good.jsonl", [{"text": t} for t in good])]
    output = folder / "prepare/words"
    chosen = QUALITY.model_copy(update={"positives": positives} if positives != "files" else {})
    quality.prepare(
        Quality.Prepare(selection_examples=15, delimiter=" ", quality=chosen),
        positives=files if positives == "files" else [],
        reference=reference,
        tokenizer=folder / "tokenizer",
        probe_pool=sampled(folder / "probe_pool.parquet", BAD[:30]),
        training_pool=sampled(folder / "training_pool.parquet", BAD[30:]),
        output=output,
    )
    return output / quality.WEIGHTS


def test_the_classifier_tells_good_texts_from_the_pool_and_its_figure_is_of_others(tmp_path):
    output = fitted(tmp_path)
    record = json.loads(output.with_suffix(".json").read_text())
    assert (record["positives"], record["negatives"]) == (40, 60)
    assert record["held_out_auc"] == pytest.approx(1)
    score = QualityClassifier.load(QUALITY, output).score(["a careful explanation", "buy cheap"])
    assert score[0] > 0 > score[1]


def test_a_text_has_the_same_score_whatever_stands_beside_it(tmp_path):
    model = QualityClassifier.load(QUALITY, fitted(tmp_path))
    together = model.score([*GOOD[:5], *BAD[:5]])
    assert together.tolist() == [model.score([t])[0] for t in [*GOOD[:5], *BAD[:5]]]


def test_bigrams_are_seen(tmp_path):
    model, _ = QualityClassifier.fit(
        QUALITY, ["left right"] * 20 + ["up down"] * 20, ["right up"] * 20 + ["down left"] * 20
    )
    assert model.score(["left right"])[0] > model.score(["right up"])[0]


def test_reference_examples_are_positives_but_never_those_held_out(tmp_path):
    output = fitted(tmp_path, positives="reference")
    record = json.loads(output.with_suffix(".json").read_text())
    assert record["positives"] == 15
    texts = quality.decoded(tmp_path / "reference.parquet", tmp_path / "tokenizer", 15)
    assert texts == GOOD[:15]


def test_too_few_positives_are_told(tmp_path):
    with pytest.raises(UserError) as caught:
        fitted(tmp_path, GOOD[:3])
    assert caught.value.found == "3"
    assert "good.jsonl" in caught.value.where
    assert "select.quality.positives" in caught.value.todo


def test_the_same_texts_give_the_same_bytes(tmp_path):
    one, two = fitted(tmp_path / "one"), fitted(tmp_path / "two")
    assert one.read_bytes() == two.read_bytes()
    assert load_file(one)["weight"].any()


def test_a_damaged_classifier_is_told(tmp_path):
    output = fitted(tmp_path)
    output.write_bytes(output.read_bytes()[:100])
    with pytest.raises(UserError, match=r"classifier\.safetensors"):
        QualityClassifier.load(QUALITY, output)
    save_file({"other": np.zeros(1)}, output)
    with pytest.raises(UserError, match=r"classifier\.safetensors"):
        QualityClassifier.load(QUALITY, output)


def ordered(folder: Path, classifier: Path, files: list[list[str]]) -> list[Path]:
    """Orders of shards of one pool file each."""
    score, orders, paths = [], [], []
    for i, texts in enumerate(files):
        rows = [{"id": f"{i}-{j}", "text": t} for j, t in enumerate(texts)]
        paths += marked(folder / "pool", [write_lines(folder / f"pool/f{i}.jsonl", rows)])
        part = pool(len(texts)).part(np.arange(len(texts)))
        part.doc_id = np.array([row["id"] for row in rows])
        part.file = np.array([f"f{i}.jsonl"] * len(texts))
        part.row = np.arange(len(texts))
        output = folder / f"score/shard-{i:05d}.parquet"
        score.append(write_score(output, part, files=paths[-1:]))
    for i, path in enumerate(paths):
        orders.append(folder / f"order-{i}.parquet")
        quality.order(
            Quality.Order(columns=PLAIN, bad_records="stop", quality=QUALITY),
            pool=[path],
            score=score,
            prepared=classifier.parent,
            partition=i,
            partitions=len(paths),
            output=orders[-1],
        )
    return orders


def test_the_order_of_a_shard_is_by_falling_quality(tmp_path):
    files = [[BAD[0], GOOD[0]], [GOOD[1], BAD[1], BAD[2]]]
    first, second = ordered(tmp_path, fitted(tmp_path), files)
    table = pq.read_table(second)
    assert table["shard"].to_pylist() == [1, 1, 1]
    assert np.argmin(table["key"].to_numpy()) == 0
    assert pq.read_table(first)["key"].to_pylist() == sorted(
        pq.read_table(first)["key"].to_pylist(), reverse=True
    )


def test_a_pool_file_that_changed_since_it_was_scored_is_refused(tmp_path):
    classifier = fitted(tmp_path)
    ordered(tmp_path, classifier, [[BAD[0], GOOD[0]]])
    two = [{"id": "0-1", "text": "x"}, {"id": "0-0", "text": "x"}]
    for rows in (two, two[1:]):
        write_lines(tmp_path / "pool/f0.jsonl", rows)
        identity._verify.cache_clear()  # another process
        with pytest.raises(UserError, match=r"bytes, sha256(.|\n)*bring the old file back"):
            quality.order(
                Quality.Order(columns=PLAIN, bad_records="stop", quality=QUALITY),
                pool=marked(tmp_path / "pool", ["f0.jsonl"]),
                score=[tmp_path / "score/shard-00000.parquet"],
                prepared=classifier.parent,
                partition=0,
                partitions=1,
                output=tmp_path / "again.parquet",
            )
