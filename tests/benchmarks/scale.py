"""Memory and CPU time of the stages after `score`, by the number of documents.

    PYTHONPATH=workflow:tests python -m benchmarks.scale 300000 1000000 3000000 --folder SCRATCH

Makes a pool of so many short documents, with scores and embeddings as `score` leaves them. The stages
centroids, cluster, order, take and materialise then run as Snakemake starts them, one process a job.
A table has the CPU seconds of each stage's jobs together, and the largest peak of one (ru_maxrss).
A second one has the exponents of growth, and what they say of larger pools. A pool of three million
documents takes 6 GB of SCRATCH, which is empty again afterwards.
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import json
import math
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# What a job's peak says is at least that of the process that starts it: this one imports little.
SIZE = 384  # of an embedding
PER_SHARD = 250_000
ROW_GROUP = 4096
PER_CLUSTER = 3000  # as in the paper
TEXT_BYTES = 300
LARGER = (29_500_000, 1_000_000_000)
RELATION = {"kernel": "mean", "alpha": 1.0, "beta": 1.0, "sharpness": 32.0}


@dataclass
class Measured:
    """Of the jobs of one stage: CPU seconds together, largest peak in MB."""

    jobs: int
    seconds: float
    peak: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("documents", nargs="+", type=int)
    parser.add_argument("--folder", type=Path, required=True, help="for files; must not be there")
    parser.add_argument("--iterations", type=int, default=2, help="of k-means (default: 2)")
    parser.add_argument("--partitions", type=int, default=4, help="of an order (default: 4)")
    parser.add_argument("--at-once", type=int, default=1, help="jobs of a stage (default: 1)")
    parser.add_argument("--relation", default="fitted", help="none: an order by influence alone")
    parser.add_argument("--make", type=int, help=argparse.SUPPRESS)  # a shard of the pool
    given = parser.parse_args()
    if given.make is not None:
        make(given.folder, given.documents[0], given.make)
        return
    found: dict[str, dict[int, Measured]] = {}
    print("| stage | documents | jobs | CPU seconds | peak of a job |\n|---|---|---|---|---|")
    for documents in given.documents:
        given.folder.mkdir(parents=True)
        try:
            for stage, commands in stages(given, documents):
                measured = run(commands, given.at_once)
                found.setdefault(stage, {})[documents] = measured
                seconds, peak = f"{measured.seconds:,.0f}", f"{measured.peak:,.0f} MB"
                print(
                    f"| {stage} | {documents:,} | {measured.jobs} | {seconds} | {peak} |",
                    flush=True,
                )
        finally:
            shutil.rmtree(given.folder)
    if len(given.documents) > 1:
        laws(found)


def stages(given: argparse.Namespace, documents: int) -> Iterator[tuple[str, list[list[str]]]]:
    """The commands of every stage's jobs; first what makes the pool."""
    here = given.folder
    shards = [f"shard-{i:05d}" for i in range(math.ceil(documents / PER_SHARD))]
    made = ["-m", "benchmarks.scale", f"{documents}", "--folder", f"{here}", "--make"]
    yield "(the pool)", [[*made, f"{i}"] for i in range(len(shards))]
    score, cluster, select = (
        [f"{here}/{folder}/{shard}.parquet" for shard in shards]
        for folder in ("score", "cluster", "select/any")
    )
    centroids = f"{here}/cluster/centroids.npy"
    fit = {"clusters": None, "target_size": PER_CLUSTER, "sample_per_cluster": 256}
    settings: dict[str, Any] = {"seed": 0, "cluster": fit | {"iterations": given.iterations}}
    yield "centroids", [job("centroids", settings, score=score, output=centroids)]
    pairs = zip(score, cluster, strict=True)
    of_one = {"centroids": centroids}
    yield "cluster", [job("cluster", {}, score=a, output=b, **of_one) for a, b in pairs]
    greedy = {"clusters": "influence", "quota": "marginal", "sign": "paper"}
    greedy |= {"relation": given.relation}
    budget = {"ratio": 0.5, "tokens": None}
    settings = {"budget": budget, "group_mates": greedy | {"sharpness": None, "rounds": "all"}}
    orders = [f"{here}/order/any/part-{p:05d}.parquet" for p in range(given.partitions)]
    pool = {"score": score, "cluster": cluster}
    given_all = pool | {"model": f"{here}/fit", "partitions": given.partitions}
    yield (
        "order",
        [
            job("order-group-mates", settings, partition=p, output=order, **given_all)
            for p, order in enumerate(orders)
        ],
    )
    chosen = {"method": "any", "rejects": f"{here}/rejects.parquet", "output": select}
    yield "take", [job("take", {"budget": budget}, orders=orders, **pool, **chosen)]
    settings = {"format": "same", "text_columns": {"text": "text", "id": None, "source": None}}
    yield (
        "materialise",
        [
            job(
                "materialise",
                settings,
                pool=f"{here}/pool/./{shard}.jsonl.zst",
                selection=selection,
                output=f"{here}/dataset/any.shards/{shard}.json",
            )
            for shard, selection in zip(shards, select, strict=True)
        ],
    )


def job(name: str, settings: dict[str, Any], **arguments: Any) -> list[str]:
    """The command of a job."""
    command = ["-m", "groupmates", name, "--settings", json.dumps(settings)]
    for argument, value in arguments.items():
        values = value if isinstance(value, list) else [value]
        command += ["--" + argument.replace("_", "-"), *map(str, values)]
    return command


def run(commands: list[list[str]], at_once: int) -> Measured:
    """Run jobs, so many at once; a failed one shows what it has said."""
    with ThreadPoolExecutor(at_once) as threads:
        used = list(threads.map(run_one, commands))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert max(u.ru_maxrss for u in used) > own, "the peak is that of this process"
    seconds = sum(u.ru_utime + u.ru_stime for u in used)
    return Measured(len(used), seconds, max(u.ru_maxrss for u in used) * 1024 / 1e6)


def run_one(command: list[str]) -> resource.struct_rusage:
    """What a job has used."""
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE)
    assert process.stderr is not None
    told = process.stderr.read().decode()
    _, process.returncode, used = os.wait4(process.pid, 0)
    if process.returncode:
        raise RuntimeError(told)
    return used


def laws(found: dict[str, dict[int, Measured]]) -> None:
    """Time as c * N**e by least squares of the logarithms; memory as a line through the largest two."""
    print("\n| stage | time grows as | memory of a job |", end="")
    print("".join(f" {n:,} documents |" for n in LARGER) + "\n|" + "---|" * (3 + len(LARGER)))
    for name, by_size in list(found.items())[1:]:
        sizes = sorted(by_size)
        x = [math.log(n) for n in sizes]
        y = [math.log(by_size[n].seconds) for n in sizes]
        mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
        squares = sum((a - mean_x) ** 2 for a in x)
        slope = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / squares
        one, two = sizes[-2:]
        each = (by_size[two].peak - by_size[one].peak) / (two - one)  # MB
        base = by_size[two].peak - each * two
        cells = [
            f"{by_size[two].seconds * (n / two) ** slope / 3600:,.1f} h, "
            f"{max(base + each * n, by_size[two].peak) / 1000:,.0f} GB"
            for n in LARGER
        ]
        law = f"{base:,.0f} MB + {1e6 * each:,.0f} bytes a document"
        print(f"| {name} | N^{slope:.2f} | {law} | " + " | ".join(cells) + " |")


def make(folder: Path, documents: int, shard: int) -> None:
    """A pool file of `PER_SHARD` documents and its scores; with the first shard what no shard has."""
    import numpy as np
    import zstandard

    from groupmates.artefacts import store
    from groupmates.artefacts.store import Provenance
    from groupmates.pool.identity import identity, sha256_of

    if shard == 0:
        with store.replacing(folder / "fit") as model:
            model.mkdir()
            store.write_folder_provenance(model, "fit", Provenance("fit", {}))
            store.write_json(model / "relation.json", "fit", Provenance("fit", {}), RELATION)
        nothing = {name: [] for name in ("source_file", "source_row", "reason", "found")}
        store.write_table(folder / "rejects.parquet", "rejects", Provenance("check", {}), nothing)
    of_pool, random = np.random.default_rng(0), np.random.default_rng([0, shard])
    directions = of_pool.standard_normal((max(1, documents // PER_CLUSTER), SIZE), np.float32)
    noise = random.standard_normal((8 * ROW_GROUP, SIZE), np.float32)
    words = np.array([f"{n:x}" for n in random.integers(16, 2**24, 5000)])
    text = " ".join(random.choice(words, 1 << 20))
    count = min(PER_SHARD, documents - shard * PER_SHARD)
    pool = folder / f"pool/shard-{shard:05d}.jsonl.zst"
    pool.parent.mkdir(exist_ok=True)
    with pool.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as output:
        for start in random.integers(0, len(text) - TEXT_BYTES, count).tolist():
            output.write(json.dumps({"text": text[start : start + TEXT_BYTES]}).encode() + b"\n")
    known = {pool.name: identity(pool.stat().st_size, sha256_of(pool))}
    made = Provenance("score", {}, store.of_pool(known))
    table = folder / f"score/shard-{shard:05d}.parquet"
    with store.table_writer(table, "score", made, SIZE) as writer:
        for first in range(0, count, ROW_GROUP):
            rows = np.arange(first, min(first + ROW_GROUP, count))
            emb = noise[random.integers(0, len(noise), len(rows))]
            emb += directions[random.integers(0, len(directions), len(rows))]
            emb /= np.linalg.norm(emb, axis=1, keepdims=True)
            writer.write(
                {
                    "doc_id": [f"{pool.name}#{row}" for row in rows],
                    "source_file": [pool.name] * len(rows),
                    "source_row": rows,
                    "source": [""] * len(rows),
                    "n_tokens": random.integers(50, 100, len(rows)),
                    "individual_influence": random.standard_normal(len(rows), np.float32),
                    "embedding": emb,
                }
            )


if __name__ == "__main__":
    main()
