"""Rates of the kernels that run on a CPU core whatever the GPU, for a file of rates (plan.rates).

    PYTHONPATH=workflow:tests python tests/benchmarks/rates_cpu.py POOL.jsonl.zst TOKENIZER_FOLDER

CPU seconds of one thread, so that other processes on the machine hardly matter; sizes of the paper's
configuration: clusters of 2,948 documents, embeddings of 768. Prints JSON as in workflow/rates/.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import numpy as np
import pyarrow as pa

from groupmates.artefacts.store import Provenance, embeddings, read_table, write_table
from groupmates.cost.work import FIGURE_OVERHEAD
from groupmates.maths.greedy import greedy_order
from groupmates.maths.kmeans import Assignment, ExactOnCpu
from groupmates.maths.randomness import generator, hash64, priorities
from groupmates.maths.relation import Relation
from groupmates.maths.rollouts import beam_rollouts
from groupmates.maths.statistics import spearman
from groupmates.maths.word_windows import Windows
from groupmates.models.student import Student
from groupmates.models.tokenizer import document_tokens, largest_id, load_tokenizer
from groupmates.pool.copy_rows import copy_rows
from groupmates.pool.documents import read_documents
from groupmates.pool.identity import sha256_of
from groupmates.pool.listing import PoolFile
from groupmates.records.jobs import processor
from groupmates.settings.config import PoolColumns

CLUSTER, SIZE = 2948, 768
WORDS = [f"word{i}" for i in range(1000)]


def seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one call, after one that warms up."""
    work()
    start = time.process_time()
    work()
    return time.process_time() - start


def main() -> None:
    pa.set_cpu_count(1)
    file = PoolFile(sys.argv[1], Path(sys.argv[1]).name)
    columns = PoolColumns(text="text", id=None, source=None)
    documents = list(read_documents(file, columns))
    texts = [d.text for d in documents]
    text_bytes = sum(len(t.encode()) for t in texts)
    tokenizer, random = load_tokenizer(sys.argv[2]), np.random.default_rng(0)
    emb = random.normal(size=(2 * CLUSTER, SIZE)) + random.normal(size=SIZE)
    emb = (emb / np.linalg.norm(emb, axis=1, keepdims=True)).astype(np.float32)
    influence = random.normal(size=CLUSTER).astype(np.float32)
    relation = Relation("mean", 1.0, 1.0, 1.0)
    few, many = emb[:64], np.concatenate([emb, -emb])
    found: dict[str, float] = {}

    def check() -> None:
        sha256_of(file.path)
        for document in read_documents(file, columns):
            hash64(0, "id", document.doc_id)

    found["read"] = text_bytes / seconds(check)
    found["tokenise"] = text_bytes / seconds(lambda: document_tokens(tokenizer, texts))
    # A million windows, of which the texts hold few: the time of a job's lookups.
    words = [" ".join(random.choice(WORDS, 1000)) for _ in range(1000)]
    windows = Windows(words, [0] * len(words))
    found["windows"] = text_bytes / seconds(lambda: list(windows.shared(texts)))
    read = [t[:2049] for t in document_tokens(tokenizer, texts)]
    vectors = random.normal(size=(largest_id(tokenizer) + 1, SIZE + 1)).astype(np.float32)
    student = Student(vectors[:, 0], vectors[:, 1:].copy(), 2049)
    found["vectors"] = sum(map(len, read)) * (SIZE + 1) / seconds(lambda: student.score(read))
    with tempfile.TemporaryDirectory() as folder:
        half = np.arange(0, len(documents), 2)
        copied = Path(folder) / file.name
        size = Path(file.path).stat().st_size
        found["copy"] = size / seconds(lambda: copy_rows(file, half, copied))
        ids = [f"{file.name}#{i}" for i in range(len(emb))]
        table = Path(folder) / "scored.parquet"
        scored = {
            "doc_id": ids,
            "source_file": [file.name] * len(ids),
            "source_row": np.arange(len(ids)),
            "source": [""] * len(ids),
            "n_tokens": np.ones(len(ids), np.int64),
            "individual_influence": np.zeros(len(ids), np.float32),
            "embedding": emb,
        }
        write_table(table, "score", Provenance("benchmark", {}), scored, SIZE)

        def read_embeddings() -> None:
            np.concatenate(list(embeddings(table, "score")))

        def read_rows() -> None:
            priorities(0, "select", read_table(table, "score", ["doc_id"])["doc_id"].to_pylist())
            names = [n for n in scored if n != "embedding"]
            read_table(table, "score", names).take(pa.array(np.arange(0, len(ids), 2)))

        found["embeddings"] = 4 * emb.size / seconds(read_embeddings)
        found["rows"] = len(ids) / seconds(read_rows)
    greedy = seconds(lambda: greedy_order(influence, emb[:CLUSTER], relation, CLUSTER // 2))
    found["greedy"] = CLUSTER * (CLUSTER // 2) * SIZE / greedy
    search = seconds(lambda: Assignment(many)(emb))
    found["kmeans"] = len(many) * emb.size / search
    nearest = Assignment(few)(emb)
    found["sums"] = emb.size / seconds(lambda: ExactOnCpu(few).sums(emb, nearest))
    beams, length = 256, 4
    pairs = 2.0 * beams * CLUSTER * ((length - 1) * SIZE + 30 * length)
    found["beam"] = pairs / seconds(
        lambda: [
            beam_rollouts(
                sign * influence,
                emb[:CLUSTER],
                relation,
                beams,
                length,
                beams,
                5,
                np.full(CLUSTER, 20),
            )
            for sign in (1, -1)
        ]
    )
    found["draw"] = 20 / seconds(
        lambda: [generator(0, "rollout", r).choice(80_000, 10, replace=False) for r in range(20)]
    )
    truth, guess = random.normal(size=5000), random.normal(size=5000)
    found["figures"] = (
        20
        * (5000 + FIGURE_OVERHEAD)
        / 6
        / seconds(lambda: [spearman(truth, guess) for _ in range(20)])
    )
    basis = f"measured {date.today()}, one core of {processor()}"
    rates = {k: {"per_second": float(f"{v:.3g}"), "basis": basis} for k, v in found.items()}
    print(json.dumps(rates, indent=2, sort_keys=True))


if __name__ == "__main__":
    main()
