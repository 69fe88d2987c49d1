"""A small scored and clustered pool in any number of shards: what clustering and selection read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import tables
from groupmates.artefacts.store import (
    Provenance,
    digest,
    embedded_as,
    of_pool,
    read_table,
    replacing,
    table_writer,
    write_folder_provenance,
    write_json,
)
from groupmates.selectors import group_mates as stage
from groupmates.selectors import take
from groupmates.settings.per_stage import CentroidSettings, ClusterSettings, TakeSettings
from groupmates.settings.sections import Budget
from groupmates.settings.selectors import GroupMates
from groupmates.stages import cluster as stages

ROW_GROUP = 7


@dataclass
class Pool:
    """Documents in pool order; document i is row `row[i]` of the pool file `file[i]`."""

    doc_id: np.ndarray
    file: np.ndarray
    row: np.ndarray
    n_tokens: np.ndarray
    influence: np.ndarray
    emb: np.ndarray
    cluster: np.ndarray

    def part(self, members: np.ndarray) -> Pool:
        return Pool(**{name: values[members] for name, values in vars(self).items()})


def unit(emb: np.ndarray) -> np.ndarray:
    return (emb / np.linalg.norm(emb, axis=-1, keepdims=True)).astype(np.float32)


def pool(documents: int = 120, size: int = 8, clusters: int = 9, seed: int = 0) -> Pool:
    """Random documents of seven pool files around `clusters` directions, of very unequal sizes."""
    rng = np.random.default_rng(seed)
    cluster = np.minimum(rng.geometric(0.3, documents) - 1, clusters - 1)
    directions = rng.normal(size=(clusters, size))
    file = np.arange(documents) * 7 // documents
    row = np.arange(documents) - np.searchsorted(file, file)
    return Pool(
        doc_id=np.array([f"f{f}.jsonl#{r}" for f, r in zip(file, row, strict=True)]),
        file=np.array([f"f{f}.jsonl" for f in file]),
        row=row,
        n_tokens=rng.integers(1, 50, documents),
        influence=rng.normal(size=documents).astype(np.float32),
        emb=unit(directions[cluster] + 0.7 * rng.normal(size=(documents, size))),
        cluster=cluster,
    )


def shards_of(pool: Pool, shards: int) -> list[np.ndarray]:
    """Members of each shard: consecutive pool files."""
    number = np.unique(pool.file, return_inverse=True)[1]
    return [np.flatnonzero(number * shards // (number.max() + 1) == s) for s in range(shards)]


def write_score(
    path: Path, pool: Pool, row_group: int = ROW_GROUP, files: Iterable[str] = ()
) -> Path:
    """The scores of a pool, made of these pool files of a command line, or of files that are gone."""
    gone = of_pool(dict.fromkeys(pool.file.tolist(), "9 bytes, sha256 gone"))
    made = Provenance("score", {}, tables.of_files(files) or gone)
    with table_writer(path, "score", made, pool.emb.shape[1]) as writer:
        for start in range(0, len(pool.doc_id), row_group):
            rows = pool.part(np.arange(start, min(start + row_group, len(pool.doc_id))))
            writer.write(
                {
                    "doc_id": rows.doc_id,
                    "source_file": rows.file,
                    "source_row": rows.row,
                    "source": [""] * len(rows.doc_id),
                    "n_tokens": rows.n_tokens,
                    "individual_influence": rows.influence,
                    "embedding": rows.emb,
                }
            )
    return path


def write_cluster(path: Path, pool: Pool) -> Path:
    with table_writer(path, "cluster", Provenance("cluster", {})) as writer:
        writer.write({"doc_id": pool.doc_id, "cluster": pool.cluster})
    return path


def write_pool(folder: Path, pool: Pool, shards: int) -> tuple[list[Path], list[Path]]:
    """Score files and cluster files of a pool."""
    parts = [pool.part(members) for members in shards_of(pool, shards)]
    score = [write_score(folder / f"score/shard-{i:05d}.parquet", p) for i, p in enumerate(parts)]
    cluster = [
        write_cluster(folder / f"cluster/shard-{i:05d}.parquet", p) for i, p in enumerate(parts)
    ]
    return score, cluster


def write_model(folder: Path, **relation: Any) -> Path:
    """A fitted model's folder as far as selection reads it."""
    parameters = {"kernel": "mean", "alpha": 0.9, "beta": 1.2, "sharpness": 16.0} | relation
    with replacing(folder) as temporary:
        temporary.mkdir()
        write_folder_provenance(temporary, "fit", Provenance("fit", {}))
        write_json(temporary / "relation.json", "fit", Provenance("fit", {}), parameters)
    return folder


def order_group_mates(
    orders: list[Path],
    model: Path,
    score: list[Path],
    cluster: list[Path],
    scored_by: list[Path] | None = None,
    **chosen: str,
) -> list[Path]:
    """Greedy orders of a pool, a file per partition; `chosen` replaces the default settings."""
    settings = {
        "clusters": "influence",
        "quota": "marginal",
        "sign": "paper",
        "relation": "fitted",
        "sharpness": None,
        "rounds": "all",
    }
    for partition, output in enumerate(orders):
        stage.order(
            GroupMates.Order(group_mates=GroupMates.model_validate(settings | chosen)),
            score=score,
            cluster=cluster,
            model=model,
            scored_by=scored_by,
            partition=partition,
            partitions=len(orders),
            output=output,
        )
    return orders


def take_budget(
    folder: Path,
    orders: list[Path],
    score: list[Path],
    cluster: list[Path],
    budget: Budget,
    method: str = "any",
    consumed: list[Path] | None = None,
) -> pa.Table:
    """The documents that a budget takes, in the order of `score`; written as in a run's folder."""
    output = [folder / f"select/{method}/shard-{i:05d}.parquet" for i in range(len(score))]
    take.run(
        TakeSettings(budget=budget),
        method=method,
        orders=orders,
        score=score,
        cluster=cluster,
        rejects=tables.no_rejects(folder),
        consumed=consumed,
        output=output,
    )
    return pa.concat_tables([read_table(path, "select") for path in output])


def write_centroids(path: Path, centre_KD: np.ndarray) -> Path:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, centre_KD)
    record = {"sha256": digest(path)}
    write_json(path.with_suffix(".json"), "centroids", Provenance("centroids", {}), record)
    return path


def fit_clusters(folder: Path, score: list[Path], settings: CentroidSettings) -> np.ndarray:
    """Centroids of these embeddings, and the cluster of every document, by the stages."""
    centroids = folder / "centroids.npy"
    stages.run_centroids(settings, score=score, output=centroids)
    found = []
    for path in score:
        output = folder / "assigned" / path.name
        stages.run_assign(ClusterSettings(), score=path, centroids=centroids, output=output)
        table, scored = read_table(output, "cluster"), read_table(path, embedded_as(path))
        assert table["doc_id"].to_pylist() == scored["doc_id"].to_pylist()
        found.append(table["cluster"].to_numpy())
    return np.concatenate(found)
