"""Semantic embeddings, their clusters, and what selects within them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import scored
import small
import tables
from groupmates.artefacts.store import Provenance, read_table, table_record, write_table
from groupmates.errors import UserError
from groupmates.explain import document as asked
from groupmates.maths.meaning import whitening
from groupmates.models.language_model import load_lm
from groupmates.models.semantic import SemanticEncoder
from groupmates.models.tokenizer import document_tokens, load_tokenizer, token_lists
from groupmates.selectors import semdedup as order_semdedup
from groupmates.settings import config, per_stage
from groupmates.settings.selectors import SemDedup
from groupmates.stages import cluster, semantic

WINDOW = 12
SIZE = 10  # of the 16 directions


def fitted(run: small.Run, output: Path, size: int = SIZE) -> Path:
    settings = per_stage.SemanticFitSettings(semantic=config.Semantic(embedding_size=size))
    semantic.run_fit(settings, base=run.base, probe_pool=run.probe_pool, output=output)
    return output


@pytest.fixture(scope="module")
def encoder(small_run, tmp_path_factory) -> Path:
    return fitted(small_run, tmp_path_factory.mktemp("semantic") / "encoder.safetensors")


def embedded(
    folder: Path, run: small.Run, encoder: Path, shards: int = 1, batch_tokens: int = 100
) -> list[Path]:
    """Tables of the small documents dealt to `shards`, a file each."""
    rows = small.documents(40)
    bounds = np.linspace(0, len(rows), shards + 1).astype(int)
    outputs = []
    for i in range(shards):
        root = folder / f"pool-{i}"
        path = small.write_lines(root / f"{i}.jsonl", rows[bounds[i] : bounds[i + 1]])
        pool = small.marked(root, [path])
        outputs.append(folder / f"shard-{i:05d}.parquet")
        semantic.run_embed(
            per_stage.EmbedSettings(
                text_columns=small.COLUMNS,
                bad_records="stop",
                sequence_length=WINDOW,
                score=config.Passes(batch_tokens=batch_tokens),
            ),
            pool=pool,
            check=small.check_pool([pool], root / "check")[0],
            base=run.base,
            tokenizer=run.tokenizer,
            encoder=encoder,
            output=outputs[-1],
        )
    return outputs


def whole(files: list[Path]) -> tuple[list[str], np.ndarray]:
    ids = [i for f in files for i in read_table(f, "semantic")["doc_id"].to_pylist()]
    return ids, np.concatenate([tables.embedded(f, "semantic") for f in files])


def hidden_states(run: small.Run, sequences: list[np.ndarray]) -> np.ndarray:
    """One by one, by the model as Hugging Face calls it."""
    lm, found = load_lm(run.base).eval(), []
    for sequence in sequences:
        ids = torch.from_numpy(sequence.astype(np.int64))[None]
        with torch.no_grad():
            states = lm(input_ids=ids, output_hidden_states=True).hidden_states[-1]
        found.append(states[0].mean(0).numpy())
    return np.array(found, np.float64)


def test_an_embedding_is_the_whitened_mean_hidden_state_of_the_probed_window(
    small_run, encoder, tmp_path
):
    ids, emb = whole(embedded(tmp_path, small_run, encoder))
    assert ids == [d["id"] for d in small.documents(40)]
    pool = read_table(small_run.probe_pool, "probe_pool")
    sampled = hidden_states(small_run, token_lists(pool))
    tokens = document_tokens(
        load_tokenizer(small_run.tokenizer), [d["text"] for d in small.documents(40)]
    )
    states = hidden_states(small_run, [t[: WINDOW + 1] for t in tokens])
    expected = (states - sampled.mean(0)) @ whitening(sampled, SIZE)[1]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(emb @ emb.T, expected @ expected.T, atol=1e-3)
    assert emb.shape == (40, SIZE)


def test_the_record_of_the_directions_says_what_they_hold(small_run, encoder):
    record = json.loads(encoder.with_suffix(".json").read_text())
    assert (record["directions"], record["hidden_size"]) == (SIZE, 16)
    assert 0.5 < record["variance"] < 1
    assert record["provenance"]["inputs"].keys() == {"base", "probe_pool"}


def test_the_same_inputs_give_the_same_bytes(small_run, encoder, tmp_path):
    again = fitted(small_run, tmp_path / "encoder.safetensors")
    assert again.read_bytes() == encoder.read_bytes()
    one, two = (embedded(tmp_path / n, small_run, encoder)[0] for n in "ab")
    assert one.read_bytes() == two.read_bytes()


def clustered(folder: Path, files: list[Path]) -> np.ndarray:
    chosen = config.Cluster(clusters=5, target_size=None, iterations=8, sample_per_cluster=256)
    return scored.fit_clusters(folder, files, per_stage.CentroidSettings(seed=0, cluster=chosen))


@pytest.mark.parametrize(("shards", "batch_tokens"), [(2, 17), (7, 5000)])
def test_shards_and_batches_change_no_embedding_and_no_cluster(
    small_run, encoder, tmp_path, shards, batch_tokens
):
    first, other = (
        embedded(tmp_path / name, small_run, encoder, *how)
        for name, how in (("1", (1,)), ("n", (shards, batch_tokens)))
    )
    assert whole(other)[0] == whole(first)[0]
    np.testing.assert_allclose(whole(other)[1], whole(first)[1], atol=1e-4)
    cluster_N = clustered(tmp_path / "1", first)
    assert np.array_equal(clustered(tmp_path / "n", other), cluster_N)
    assert len(set(cluster_N.tolist())) == 5


@pytest.mark.parametrize("value", [np.nan, 0.0])
def test_an_embedding_without_direction_names_the_document_and_its_line(
    small_run, encoder, tmp_path, monkeypatch, value
):
    true_call = SemanticEncoder.__call__

    def broken(self, *arguments):
        emb = true_call(self, *arguments)
        emb[5] = value
        return emb

    monkeypatch.setattr(SemanticEncoder, "__call__", broken)
    with pytest.raises(UserError, match=r"base\.checkpoint") as caught:
        embedded(tmp_path, small_run, encoder)
    assert caught.value.found == "others for 'doc-005', one of 1 such"
    assert caught.value.where.endswith("0.jsonl, line 6")
    assert not list(tmp_path.glob("shard*"))


def test_damaged_directions_and_those_of_another_model_are_told(small_run, encoder, tmp_path):
    damaged = tmp_path / "encoder.safetensors"
    damaged.write_bytes(encoder.read_bytes()[:50])
    with pytest.raises(UserError, match=r"encoder\.safetensors"):
        SemanticEncoder.load(small_run.base, damaged)
    good = SemanticEncoder.load(small_run.base, encoder)
    good.mean_F = good.mean_F[:7]
    good.save(damaged)
    with pytest.raises(UserError, match="hidden size 7"):
        SemanticEncoder.load(small_run.base, damaged)


# Selecting within semantic clusters

MADE = Provenance("embed", {})


def two_kinds(
    run: Path, shards: int = 3, partitions: int = 1, method: str = "semdedup"
) -> tuple[scored.Pool, scored.Pool, list[dict]]:
    """A selection within semantic clusters in a run's folder; the pool as each kind of embedding has
    it, and the rows of the selection. By meaning, documents 60 to 119 are copies of the first 60."""
    pool, other = scored.pool(), scored.pool(size=6, clusters=4, seed=3)
    copied = np.tile(np.arange(60), 2)
    meaning = scored.Pool(
        **vars(pool) | {"emb": other.emb[copied], "cluster": other.cluster[copied]}
    )
    score, _ = scored.write_pool(run, pool, shards)
    files, clusters = [], []
    for i, members in enumerate(scored.shards_of(pool, shards)):
        part, name = meaning.part(members), f"semantic/shard-{i:05d}.parquet"
        files.append(run / "score" / name)
        columns = {"doc_id": part.doc_id, "embedding": part.emb}
        write_table(files[-1], "semantic", MADE, columns, part.emb.shape[1])
        clusters.append(scored.write_cluster(run / "cluster" / name, part))
    budget = config.Budget(ratio=0.25, tokens=None)
    orders = [run / f"order/{method}/part-{p:05d}.parquet" for p in range(partitions)]
    if method == "semdedup":
        settings = SemDedup.Order(seed=0, semdedup=SemDedup(clusters="semantic", threshold=0.999))
        centroids = run / "cluster/semantic/centroids.npy"
        chosen = config.Cluster(clusters=4, target_size=None, iterations=8, sample_per_cluster=256)
        cluster.run_centroids(
            per_stage.CentroidSettings(seed=0, cluster=chosen), score=files, output=centroids
        )
        for partition, output in enumerate(orders):
            order_semdedup.order(
                settings,
                score=score,
                semantic=files,
                cluster=clusters,
                centroids=centroids,
                partition=partition,
                partitions=partitions,
                output=output,
            )
    else:
        model = scored.write_model(run / "fit/final")
        scored.order_group_mates(orders, model, score, clusters, clusters="semantic")
    table = scored.take_budget(run, orders, score, clusters, budget, method)
    return pool, meaning, table.to_pylist()


@pytest.mark.parametrize("method", ["semdedup", "group_mates"])
def test_shards_and_partitions_change_nothing_within_semantic_clusters(tmp_path, method):
    _, meaning, first = two_kinds(tmp_path / "1", 1, 1, method)
    cluster_of = dict(zip(meaning.doc_id, meaning.cluster, strict=True))
    assert [row["cluster"] for row in first] == [cluster_of[row["doc_id"]] for row in first]
    for shards, partitions in ((2, 3), (7, 2)):
        other = two_kinds(tmp_path / f"{shards}", shards, partitions, method)[2]
        assert str(other) == str(first)  # there are nans among them


def test_semdedup_drops_what_says_the_same_however_its_influence_differs(tmp_path):
    pool, _, rows = two_kinds(tmp_path)
    order = read_table(tmp_path / "order/semdedup/part-00000.parquet", "order")
    sizes = [len(m) for m in scored.shards_of(pool, 3)]
    starts = np.cumsum([0, *sizes])
    kept = starts[order["shard"].to_numpy()] + order["row"].to_numpy()
    assert sorted(kept.tolist()) == list(range(60))  # the first of each pair of copies
    assert len(rows) == 30
    inputs = table_record(tmp_path / "order/semdedup/part-00000.parquet", "order")["inputs"]
    assert {"semantic[0]", "semantic[2]", "score[0]"} <= inputs.keys()


def test_semantic_embeddings_of_other_documents_are_refused(tmp_path):
    two_kinds(tmp_path)
    part = scored.pool().part(np.arange(40)[::-1])
    columns = {"doc_id": part.doc_id, "embedding": part.emb}
    file = tmp_path / "score/semantic/shard-00000.parquet"
    write_table(file, "semantic", MADE, columns, part.emb.shape[1])
    files = {
        name: sorted((tmp_path / place).glob("shard-*.parquet"))
        for name, place in (("score", "score"), ("cluster", "cluster/semantic"))
    }
    with pytest.raises(UserError, match=r"semantic/shard-00000\.parquet"):
        order_semdedup.order(
            SemDedup.Order(seed=0, semdedup=SemDedup(clusters="semantic", threshold=0.9)),
            **files,
            semantic=sorted((tmp_path / "score/semantic").glob("shard-*.parquet")),
            centroids=tmp_path / "cluster/semantic/centroids.npy",
            partition=0,
            partitions=1,
            output=tmp_path / "order.parquet",
        )


@pytest.mark.parametrize("method", ["semdedup", "group_mates"])
def test_a_document_is_explained_by_its_semantic_cluster(tmp_path, method):
    """Neighbours are told by what the method compares documents by: the relation is of influence."""
    pool, meaning, rows = two_kinds(tmp_path, method=method)
    emb = (meaning if method == "semdedup" else pool).emb.astype(float)
    at = {str(i): n for n, i in enumerate(pool.doc_id)}
    chosen = {at[row["doc_id"]]: row for row in rows}
    for number in range(0, 120, 7):
        found = asked.explain(tmp_path, str(pool.doc_id[number]), method, 2)
        members = np.flatnonzero(meaning.cluster == meaning.cluster[number])
        assert (found.cluster, found.size) == (meaning.cluster[number], len(members))
        assert "of the semantic ones" in asked.told(found)
        assert found.standing.selected == (number in chosen)
        if method == "group_mates" and number in chosen:
            assert found.standing.theta == chosen[number]["group_influence"]
            assert found.standing.rank == chosen[number]["rank"]
        others = [m for m in members if m in chosen and m != number]
        nearest = sorted((float(emb[m] @ emb[number]) for m in others), reverse=True)[:2]
        assert [n.similarity for n in found.neighbours] == pytest.approx(nearest, abs=1e-5)


@pytest.mark.parametrize(
    "name", ["score/semantic/shard-00001.parquet", "cluster/semantic/shard-00001.parquet"]
)
def test_a_selection_whose_semantic_inputs_have_changed_is_not_explained(tmp_path, name):
    two_kinds(tmp_path)
    (tmp_path / name).unlink()
    shutil.copy(tmp_path / name.replace("00001", "00000"), tmp_path / name)
    with pytest.raises(UserError, match="another one now") as caught:
        asked.explain(tmp_path, "f0.jsonl#0", "semdedup", 3)
    assert caught.value.where == str(tmp_path / name)
