"""Tables of artefacts: a test gives the columns that matter to it, the others are filled."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import small
from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.artefacts.store import Provenance, embeddings, of_pool, write_table
from groupmates.pool.damage import bytes_of
from groupmates.pool.identity import identity, sha256_of
from groupmates.pool.listing import located

FILLING = {"string": "", "dictionary": "", "tokens": [1], "bool": False}  # numbers: 0


def write(path: Path, artefact: str, made: Provenance | None = None, **columns: Any) -> Path:
    """A table of `artefact`; one value, for instance of `source_file`, is that of all rows."""
    kinds = ARTEFACTS[artefact].columns or {}
    rows = next(len(v) for v in columns.values() if not isinstance(v, str | int | float))
    filled = {}
    for name, kind in kinds.items():
        values = columns.pop(name, FILLING.get(kind, 0))
        if kind == "embedding":
            values = np.asarray(values, np.float32) if np.ndim(values) else np.ones((rows, 1), "f4")
        elif isinstance(values, str | int | float) or values is FILLING["tokens"]:
            values = [values] * rows
        filled[name] = values
    assert not columns, f"no columns of {artefact}: {sorted(columns)}"
    size = filled["embedding"].shape[1] if "embedding" in filled else None
    write_table(path, artefact, made or Provenance(artefact, {}), filled, size)
    return path


def embedded(path: Path, artefact: str) -> np.ndarray:
    """All embeddings beside a table."""
    return np.concatenate(list(embeddings(path, artefact)))


def of_files(pool: Iterable[str]) -> dict[str, str]:
    """Inputs of a provenance: these pool files of a command line."""
    files = located(pool)
    return of_pool({f.name: identity(bytes_of(f.path), sha256_of(f.path)) for f in files})


def no_rejects(folder: Path) -> Path:
    """The list of a pool without bad records."""
    return write(folder / "rejects.parquet", "rejects", source_file=[])


def selection(
    path: Path, places: list[tuple[str, int]], pool: Iterable[str] = (), **columns: Any
) -> Path:
    """The selected documents at these places, (pool file, row), of the `pool` that was scored."""
    chosen = {"method": "random", "budget": {"ratio": 0.5, "tokens": None}}
    made = Provenance("select", chosen, of_files(pool))
    files, rows = [file for file, _ in places], [row for _, row in places]
    ids = [f"{file}#{row}" for file, row in places]
    given = {"doc_id": ids, "source_file": files, "source_row": rows} | columns
    return write(path, "select", made, **given)


def probe(path: Path, doc_ids: np.ndarray, influence: np.ndarray) -> Path:
    """Probed rollouts, of documents and influences [R, T]."""
    rollouts, steps = influence.shape
    return write(
        path,
        "probe",
        rollout=np.repeat(np.arange(rollouts), steps),
        step=np.tile(np.arange(1, steps + 1), rollouts),
        doc_id=doc_ids.ravel(),
        loss_after_nats=influence.ravel(),
        influence_nats=influence.ravel(),
    )


def scored_pool(
    folder: Path, documents: list[dict[str, str]], shards: int, n_tokens: list[int] | None = None
) -> tuple[list[str], list[Path]]:
    """Documents in pool files, one for each shard, and the scores of each."""
    files, score = [], []
    for shard, rows in enumerate(np.array_split(np.arange(len(documents)), shards)):
        mine = [documents[i] for i in rows]
        path = small.write_lines(folder / f"pool/f{shard}.jsonl", mine)
        files += small.marked(folder / "pool", [path])
        score.append(
            write(
                folder / f"score/shard-{shard:05d}.parquet",
                "score",
                Provenance("score", {}, of_files(files[-1:])),
                doc_id=[d["id"] for d in mine],
                source_file=f"f{shard}.jsonl",
                source_row=np.arange(len(mine)),
                n_tokens=[n_tokens[i] for i in rows] if n_tokens else 10,
            )
        )
    return files, score
