"""Plain counterparts of the stages that need no model: what `make bench` compares with.

Each is the straightforward algorithm, written from its description in the method. It computes the same
results as the stage, so that the two can be compared. Legend as in the stage's own module.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from groupmates.maths.relation import Relation


def greedy(
    influence_N: np.ndarray, emb_ND: np.ndarray, relation: Relation, stop: int
) -> np.ndarray:
    """At every pick a row of similarities, a masked copy and an argmin over the whole cluster."""
    taken_N = np.zeros(len(influence_N), bool)
    related_N = np.zeros(len(influence_N), np.float32)
    order: list[int] = []
    for _ in range(stop):
        factor_N = np.ones_like(related_N)
        if order and relation.kernel == "mean":
            factor_N = relation.alpha - relation.alpha / (relation.beta * len(order)) * related_N
        elif order:
            sharpened_N = related_N**relation.sharpness
            factor_N = relation.alpha - relation.alpha / relation.beta * sharpened_N
        pick = int(np.argmin(np.where(taken_N, np.inf, factor_N * influence_N)))
        taken_N[pick] = True
        order.append(pick)
        similarity_N = emb_ND @ emb_ND[pick]
        if relation.kernel == "mean":
            related_N += similarity_N
        else:
            np.maximum(related_N, similarity_N, out=related_N)
    return np.array(order)


def group(cluster_N: np.ndarray, clusters: int) -> list[np.ndarray]:
    """The documents of each cluster, by one look at the whole pool per cluster."""
    return [np.flatnonzero(cluster_N == c) for c in range(clusters)]


def read_embeddings(path: Path) -> np.ndarray:
    """The embeddings of a table as float32 [N, D], by way of Python lists."""
    return np.array(pq.read_table(path, columns=["embedding"])["embedding"].to_pylist(), np.float32)


def beam(
    influence_N: np.ndarray,
    emb_ND: np.ndarray,
    relation: Relation,
    width: int,
    length: int,
    expansion: int,
) -> np.ndarray:
    """The beam search with the mean kernel, int64 [W, T], one candidate after the other.

    Every beam computes its relations anew: one similarity to the whole pool per document in it. Then it
    sorts the whole pool. A set counts once, and no document has a cap.
    """
    first = np.argsort(influence_N, kind="stable")[:width]
    beams = [[int(d)] for d in first]
    scores = influence_N[first].astype(np.float64)
    for _ in range(length - 1):
        ranked, thetas = [], []
        for members in beams:
            related_N = np.zeros(len(influence_N), np.float32)
            for member in members:
                related_N += emb_ND @ emb_ND[member]
            factor_N = relation.alpha - relation.alpha / (relation.beta * len(members)) * related_N
            theta_N = factor_N * influence_N
            theta_N[members] = np.inf
            thetas.append(theta_N)
            ranked.append(np.argsort(theta_N, kind="stable"))
        grown, seen = [], set()
        for place in range(0, len(influence_N) - len(beams[0]), expansion):
            candidates = [
                (scores[b] + thetas[b][d], b, int(d))
                for b in range(len(beams))
                for d in ranked[b][place : place + expansion]
            ]
            for score, b, d in sorted(candidates):
                members = frozenset([*beams[b], d])
                if np.isfinite(score) and members not in seen and len(grown) < width:
                    seen.add(members)
                    grown.append((score, [*beams[b], d]))
            if len(grown) == width:
                break
        scores = np.array([score for score, _ in grown])
        beams = [members for _, members in grown]
    return np.array(beams)[np.argsort(scores, kind="stable")]


def copy_lines(pool: Path, rows: np.ndarray, destination: Path) -> None:
    """Parse every line of a .jsonl.zst file, and write those of `rows` as JSON again."""
    wanted = set(rows.tolist())
    with zstandard.open(pool, "rt", encoding="utf-8") as lines:
        compressed = zstandard.ZstdCompressor(level=3)
        with destination.open("wb") as raw, compressed.stream_writer(raw) as binary:
            output = io.TextIOWrapper(binary, encoding="utf-8")
            for row, line in enumerate(lines):
                record = json.loads(line)
                if row in wanted:
                    output.write(json.dumps(record) + "\n")
            output.flush()


def copy_table(pool: Path, rows: np.ndarray, destination: Path) -> None:
    """Make a dict of every row of a Parquet file, and write those of `rows` as Parquet again."""
    wanted = set(rows.tolist())
    with pq.ParquetFile(pool) as file:
        schema, start = file.schema_arrow, 0
        with pq.ParquetWriter(destination, schema, compression="zstd") as output:
            for group in range(file.num_row_groups):
                records = file.read_row_group(group).to_pylist()
                chosen = [r for row, r in enumerate(records, start) if row in wanted]
                output.write_table(pa.Table.from_pylist(chosen, schema))
                start += len(records)


WORD = re.compile(r"[^\W_]+")


def window_set(examples: list[str]) -> set[tuple[str, ...]]:
    """All runs of 13 words, as a set of tuples."""
    found: set[tuple[str, ...]] = set()
    for words in map(str.split, examples):
        found.update(tuple(words[i : i + 13]) for i in range(len(words) - 12))
    return found


def shared_windows(texts: list[str], windows: set[tuple[str, ...]]) -> list[tuple[int, list[str]]]:
    """Each run of 13 words of each text is looked up in the set."""
    found = []
    for number, text in enumerate(texts):
        words = WORD.findall(text.lower())
        for i in range(len(words) - 12):
            if tuple(words[i : i + 13]) in windows:
                found.append((number, words[i : i + 13]))
    return found
