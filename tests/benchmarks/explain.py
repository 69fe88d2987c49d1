"""How long `explain` takes on a pool of many documents: made up, in the files of a finished selection.

    python tests/benchmarks/explain.py FOLDER DOCUMENTS EMBEDDING_SIZE DOCUMENTS_PER_CLUSTER

Writes the pool to FOLDER where it is not there yet (4 bytes x documents x embedding size), in shards of
106,000 documents, as the 279 files of 29.5 million have. The selection is a made-up order: explain
reads the same columns and row groups as of a computed one.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "tests")]

import scored  # noqa: E402
from groupmates.artefacts.store import Provenance, digests, table_writer, write_table  # noqa: E402
from groupmates.explain.document import explain  # noqa: E402
from groupmates.explain.selection import Selection  # noqa: E402
from groupmates.selectors import take  # noqa: E402
from groupmates.settings.config import Budget, TakeSettings  # noqa: E402

SHARD, ROW_GROUP = 106_000, 4096


def make(run: Path, documents: int, size: int, per_cluster: int) -> None:
    rng = np.random.default_rng(0)
    model = scored.write_model(run / "fit/final", kernel="nearest")
    cluster = rng.integers(0, documents // per_cluster, documents).astype(np.int32)
    score, clusters = [], []
    for shard, start in enumerate(range(0, documents, SHARD)):
        end = min(start + SHARD, documents)
        score.append(run / f"score/shard-{shard:05d}.parquet")
        clusters.append(run / f"cluster/shard-{shard:05d}.parquet")
        ids = [f"shard-{shard:05d}.jsonl.zst#{row}" for row in range(end - start)]
        with table_writer(score[-1], "score", Provenance("score", {}), size) as writer:
            for first in range(0, end - start, ROW_GROUP):
                rows = ids[first : first + ROW_GROUP]
                writer.write(
                    {
                        "doc_id": rows,
                        "source_file": [f"shard-{shard:05d}.jsonl.zst"] * len(rows),
                        "source_row": np.arange(first, first + len(rows)),
                        "source": [""] * len(rows),
                        "n_tokens": rng.integers(50, 2000, len(rows)),
                        "individual_influence": rng.normal(size=len(rows)).astype(np.float32),
                        "embedding": scored.unit(rng.normal(size=(len(rows), size))),
                    }
                )
        with table_writer(clusters[-1], "cluster", Provenance("cluster", {})) as writer:
            writer.write({"doc_id": ids, "cluster": cluster[start:end]})
    by_cluster = np.argsort(cluster, kind="stable")
    rank = np.empty(documents, np.int32)
    first = np.searchsorted(cluster[by_cluster], cluster[by_cluster])
    rank[by_cluster] = np.arange(documents) - first
    budget = {"budget": {"ratio": 0.5, "tokens": None}}
    chosen = {"group_mates": {"quota": "marginal", "sign": "paper"}}
    provenance = Provenance(
        "select", budget | chosen, digests(score=score, cluster=clusters, model=model)
    )
    order = run / "order/group_mates/part-00000.parquet"
    columns = {
        "shard": np.arange(documents) // SHARD,
        "row": np.arange(documents) % SHARD,
        "rank": rank,
        "key": rank / per_cluster,
        "group_influence": rank / per_cluster,
    }
    write_table(order, "order", provenance, columns)
    take.run(
        TakeSettings(budget=Budget(ratio=0.5, tokens=None)),
        method="group_mates",
        orders=[order],
        score=score,
        cluster=clusters,
        output=[run / f"select/group_mates/{path.name}" for path in score],
    )


def main(run: Path, documents: int, size: int, per_cluster: int) -> None:
    if not (run / "select").exists():
        make(run, documents, size, per_cluster)
    doc_id = f"shard-{(documents - 1) // SHARD:05d}.jsonl.zst#7"
    steps = {
        "look the document up": lambda s: s.find(doc_id),
        "influences of the pool": lambda s: s.influences(),
        "members of its cluster": lambda s: s.members(3),
        "key of the last one taken": lambda s: s.last_key(),
        "embeddings of the selected members": lambda s: s.read(s.members(3)[::2]),
    }
    for name, step in steps.items():
        start = time.perf_counter()
        step(Selection.of(run, "group_mates"))
        print(f"{time.perf_counter() - start:8.2f} s  {name}, footers and digests included")
    start = time.perf_counter()
    found = explain(run, doc_id, "group_mates", 5)
    seconds = time.perf_counter() - start
    print(f"{seconds:8.2f} s  explain; {found.taken:,} selected of {found.size:,} in its cluster")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
