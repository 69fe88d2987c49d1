"""Centroids and clusters: exact, the same for any number of shards, loud about bad embeddings."""

import json
from pathlib import Path

import faiss
import numpy as np
import pytest

from groupmates.errors import UserError
from groupmates.maths import kmeans
from groupmates.maths.kmeans import Assignment, ExactOnCpu, directions, spherical_kmeans
from groupmates.maths.kmeans_on_gpu import ExactOnDevice
from groupmates.models import language_model as lm
from groupmates.settings.config import Cluster
from groupmates.settings.per_stage import CentroidSettings, ClusterSettings
from groupmates.stages.cluster import run_assign, run_centroids
from scored import Pool, fit_clusters, pool, unit, write_pool, write_score


def settings(seed: int = 0, **changes: int | None) -> CentroidSettings:
    cluster = {"clusters": 6, "target_size": None, "iterations": 8, "sample_per_cluster": 256}
    return CentroidSettings(seed=seed, cluster=Cluster.model_validate(cluster | changes))


def clustered(folder: Path, pool: Pool, shards: int, chosen: CentroidSettings) -> np.ndarray:
    """Clusters of the whole pool, by way of files."""
    return fit_clusters(folder, write_pool(folder, pool, shards)[0], chosen)


def test_separate_groups_become_the_clusters_and_their_directions_the_centroids(tmp_path):
    documents = pool(120, size=4)
    group = np.arange(120) % 3
    documents.emb = np.eye(4, dtype=np.float32)[group]
    cluster = clustered(tmp_path, documents, 2, settings(clusters=3))
    centroids = np.load(tmp_path / "centroids.npy")
    assert centroids.dtype == np.float32
    assert sorted(map(tuple, centroids.tolist())) == sorted(map(tuple, np.eye(4)[:3].tolist()))
    assert np.array_equal(centroids[cluster], documents.emb)


@pytest.mark.parametrize("sample_per_cluster", [3, 256])
def test_the_number_of_shards_changes_nothing(tmp_path, sample_per_cluster):
    chosen = settings(sample_per_cluster=sample_per_cluster)
    first = clustered(tmp_path / "1", pool(), 1, chosen)
    for shards in (2, 7):
        folder = tmp_path / str(shards)
        assert np.array_equal(clustered(folder, pool(), shards, chosen), first)
        assert (folder / "centroids.npy").read_bytes() == (
            tmp_path / "1/centroids.npy"
        ).read_bytes()


def test_centroids_describe_themselves_in_a_file_beside_them(tmp_path):
    clustered(tmp_path, pool(), 2, settings(clusters=None, target_size=25, sample_per_cluster=4))
    record = json.loads((tmp_path / "centroids.json").read_text())
    centroids = np.load(tmp_path / "centroids.npy")
    assert (record["clusters"], record["documents"], record["sampled"]) == (5, 120, 20)
    assert sum(record["sizes"]) == 20
    assert 1 < len(record["inertia"]) <= 8  # it ends when nothing changes any more
    assert record["inertia"][-1] < record["inertia"][0]
    assert record["provenance"]["artefact"] == "centroids"
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-6)


def test_another_seed_fits_other_centroids(tmp_path):
    clustered(tmp_path / "0", pool(), 1, settings(seed=0))
    clustered(tmp_path / "1", pool(), 1, settings(seed=1))
    assert (tmp_path / "0/centroids.npy").read_bytes() != (
        tmp_path / "1/centroids.npy"
    ).read_bytes()


def test_inertia_is_the_mean_squared_distance_to_the_nearest_centroid():
    emb = np.array([[1, 0], [0.8, 0.6], [0.8, -0.6]], np.float32)
    fitted = spherical_kmeans(emb, clusters=1, iterations=4, seed=0)
    np.testing.assert_allclose(fitted.centroids_KD, [[1, 0]], atol=1e-6)
    assert fitted.inertia[-1] == pytest.approx((0 + 0.4 + 0.4) / 3)
    assert fitted.sizes == [3]


def test_every_document_gets_its_most_similar_centroid():
    rng = np.random.default_rng(0)
    emb, centroids = unit(rng.normal(size=(500, 16))), unit(rng.normal(size=(40, 16)))
    expected = (emb.astype(np.float64) @ centroids.T.astype(np.float64)).argmax(axis=1)
    assert np.array_equal(Assignment(centroids)(emb), expected)


def test_of_equal_centroids_the_lowest_number_gets_the_document():
    rng = np.random.default_rng(0)
    centroids = unit(rng.normal(size=(5, 64)))
    emb = unit(rng.normal(size=(3000, 64)))
    assert Assignment(np.tile(centroids, (9, 1)))(emb).max() < 5


def test_the_batch_does_not_change_a_cluster_where_float32_cannot_tell():
    rng = np.random.default_rng(0)
    centroids = unit(unit(rng.normal(size=64)) + 3e-6 * rng.normal(size=(20, 64)))
    assign, emb = Assignment(centroids), unit(rng.normal(size=(300, 64)))
    assert np.array_equal(assign(emb), np.concatenate([assign(emb[i : i + 1]) for i in range(300)]))


def test_the_exact_parts_of_a_gpu_are_those_of_numpy_bit_by_bit():
    """Where there is none, on torch's CPU. float64 holds every sum, in whatever order."""
    rng = np.random.default_rng(0)
    emb = unit(rng.normal(size=(2500, 48)))
    centroids = np.concatenate([emb[:30], emb[:7], unit(emb[:30] + 1e-7)])  # copies, and nearly
    ours = ExactOnCpu(centroids)
    device = lm.device()
    for documents, similarities in [(1 << 16, 1 << 26), (700, 67 * 90), (1, 1)]:
        theirs = ExactOnDevice(centroids, device, documents, similarities)
        cluster = theirs.nearest(emb[:300])
        assert np.array_equal(cluster, ours.nearest(emb[:300]))
        everywhere = np.arange(len(emb), dtype=np.int32) % len(centroids)
        for mine, other in zip(
            ours.sums(emb, everywhere), theirs.sums(emb, everywhere), strict=True
        ):
            assert mine.tobytes() == other.tobytes()


def test_a_gpu_makes_the_same_centroids(monkeypatch):
    emb = unit(np.random.default_rng(1).normal(size=(900, 24)))
    expected = spherical_kmeans(emb, 20, 5, seed=0)
    monkeypatch.setattr(kmeans, "exact", lambda c: ExactOnDevice(c, lm.device(), 128))
    found = spherical_kmeans(emb, 20, 5, seed=0)
    assert found.centroids_KD.tobytes() == expected.centroids_KD.tobytes()
    assert (found.inertia, found.sizes) == (expected.inertia, expected.sizes)


def test_without_a_gpu_of_faiss_numpy_makes_the_exact_parts(monkeypatch):
    monkeypatch.setattr(kmeans, "gpus", lambda: 0)
    assert isinstance(kmeans.exact(np.eye(3, dtype=np.float32)), ExactOnCpu)


def test_one_cluster_takes_everything():
    assert (
        Assignment(np.eye(3, dtype=np.float32)[:1])(np.eye(3, dtype=np.float32)).tolist() == [0] * 3
    )


def test_a_cluster_without_direction_starts_anew_from_the_worst_described_document():
    emb = np.array([[1, 0, 0], [0, 1, 0], [0.6, 0.8, 0]], np.float32)
    sums, similarity = np.array([[2.0, 0, 0], [0, 0, 0]]), np.array([1.0, 0.0, 0.6])
    assert directions(sums, emb, similarity).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_every_step_of_k_means_is_that_of_a_plain_one():
    emb = unit(np.random.default_rng(0).normal(size=(300, 8)))
    start = np.sort(np.random.default_rng(3).choice(300, 12, replace=False))
    centroids = emb[start].astype(np.float64)
    for iterations in (1, 2, 3):
        cluster = (emb @ centroids.T).argmax(axis=1)
        sums = np.stack([emb[cluster == k].sum(axis=0, dtype=np.float64) for k in range(12)])
        centroids = sums / np.linalg.norm(sums, axis=1, keepdims=True)
        fitted = spherical_kmeans(emb, 12, iterations, seed=3).centroids_KD
        np.testing.assert_allclose(fitted, centroids, atol=1e-5)


def test_the_number_of_threads_changes_nothing():
    emb = unit(np.random.default_rng(0).normal(size=(5000, 96)))
    threads, fitted = faiss.omp_get_max_threads(), []
    try:
        for count in (1, 2, 3):
            faiss.omp_set_num_threads(count)
            fitted.append(spherical_kmeans(emb, 40, 6, seed=0).centroids_KD)
    finally:
        faiss.omp_set_num_threads(threads)
    assert np.array_equal(fitted[0], fitted[1])
    assert np.array_equal(fitted[0], fitted[2])


def test_fewer_documents_than_clusters_are_told_with_both_numbers(tmp_path):
    with pytest.raises(UserError, match="at least 121 documents") as caught:
        clustered(tmp_path, pool(120), 2, settings(clusters=121))
    assert caught.value.found == "120 documents in the pool"
    assert (caught.value.where, "target_size" in caught.value.todo) == ("cluster.clusters", True)
    assert not (tmp_path / "centroids.npy").exists()


def test_more_clusters_than_distinct_documents_leave_clusters_empty(tmp_path):
    documents = pool(60, size=4)
    documents.emb = np.eye(4, dtype=np.float32)[np.arange(60) % 2]
    cluster = clustered(tmp_path, documents, 2, settings(clusters=5))
    assert len(set(cluster.tolist())) == 2
    assert np.isfinite(np.load(tmp_path / "centroids.npy")).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.5])
def test_an_embedding_that_is_not_of_unit_length_names_document_and_shard(tmp_path, value):
    documents = pool(30)
    clustered(tmp_path / "good", documents, 1, settings())
    documents.emb[25] = value
    score, _ = write_pool(tmp_path, documents, 2)
    message = rf"{documents.doc_id[25]}(.|\n)*shard-00001\.parquet"
    with pytest.raises(UserError, match=message):
        run_centroids(settings(), score=score, output=tmp_path / "centroids.npy")
    with pytest.raises(UserError, match=message):
        run_assign(
            ClusterSettings(),
            score=score[1],
            centroids=tmp_path / "good/centroids.npy",
            output=tmp_path / "cluster.parquet",
        )
    assert not (tmp_path / "cluster.parquet").exists()


def test_scores_of_another_model_and_damaged_centroids_are_errors(tmp_path):
    clustered(tmp_path, pool(size=8), 1, settings())
    other = write_score(tmp_path / "other.parquet", pool(size=5))
    arguments = {"centroids": tmp_path / "centroids.npy", "output": tmp_path / "cluster.parquet"}
    with pytest.raises(UserError, match="embeddings of size 8"):
        run_assign(ClusterSettings(), score=other, **arguments)
    (tmp_path / "centroids.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"centroids\.npy"):
        run_assign(ClusterSettings(), score=other, **arguments)


def test_every_iteration_is_told_and_none_after_nothing_changes_any_more():
    emb = np.eye(4, dtype=np.float32)[np.arange(40) % 4]
    told = []
    fitted = spherical_kmeans(emb, 1, iterations=9, seed=0, after_each=lambda: told.append(1))
    assert len(told) == len(fitted.inertia) < 9
