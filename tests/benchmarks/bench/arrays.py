"""Cases of `make bench` without a model: selection, grouping, reading, the beam, the dataset."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks.bench import plain
from benchmarks.bench.measure import Case, Pair
from groupmates.artefacts.store import Provenance, embeddings, table_writer
from groupmates.maths import rollouts, word_windows
from groupmates.maths.greedy import greedy_order
from groupmates.maths.grouping import by_cluster
from groupmates.maths.relation import Relation
from groupmates.maths.word_windows import Windows
from groupmates.pool.copy_rows import copy_rows
from groupmates.pool.listing import PoolFile
from groupmates.selectors.order import Members

MEAN, NEAREST = Relation("mean", 1.0, 1.0, 1.0), Relation("nearest", 1.0, 1.0, 64.0)
PAPER_DOCUMENTS, PAPER_WIDTH, PAPER_CAP = 81_920, 10_000, 20
LENGTH, EXPANSION = 10, 5
LINES, TABLE = ".jsonl.zst", ".parquet"
BEAM_AT_PAPER = "bootstrap beam, the paper's shape"


def cases(small: bool) -> list[Case]:
    """All of them; `small` only tries them out."""
    d = 16 if small else 768
    greedy_sizes, scored = ((30, 200, 400), (20, 40)) if small else ((500, 1000, 3000), ())
    found = [
        Case(
            f"greedy, {relation.kernel} kernel, d {size}",
            "documents",
            greedy_sizes,
            lambda n, folder, relation=relation, size=size: greedy(n, size, relation),
            {500: 4, 1000: 6, 3000: 10} if relation is MEAN and size == d else {},
        )
        for relation, size in ((MEAN, d), (MEAN, d // 2), (NEAREST, d))
    ]
    return [
        *found,
        Case(
            "grouping by cluster, 1,000 documents each",
            "documents",
            scored or (400_000, 1_200_000, 3_600_000),
            group,
            {3_600_000: 30},
            repeats=3,
        ),
        Case(
            f"reading embeddings, d {d}",
            "documents",
            scored or (5_000, 10_000, 20_000),
            lambda n, folder: read(n, d, folder),
            {20_000: 100},
            repeats=3,
        ),
        Case(
            f"bootstrap beam, W {8 if small else 200}",
            "documents",
            scored or (1250, 2500, 5000),
            lambda n, folder: beam(n, d, width=8 if small else 200),
            {5000: 50},
            repeats=3,
        ),
        Case(
            BEAM_AT_PAPER,
            "documents",
            (41, 82) if small else (5_120, 10_240, 20_480),
            lambda n, folder: beam_as_in_the_paper(n, d),
            repeats=1,
        ),
        *(
            Case(
                stage,
                "MB of text",
                (1,) if small else (8, 16, 32),
                lambda n, folder, ours=ours, other=other: materialise(n, folder, ours, other),
                {32: asked} if asked else {},
            )
            for stage, ours, other, asked in (
                ("materialise .jsonl.zst", LINES, LINES, 2.3),
                ("materialise Parquet, plain: the same as .jsonl.zst", TABLE, LINES, 3),
                ("materialise Parquet, plain: the same file", TABLE, TABLE, None),
            )
        ),
        Case(
            "decontaminate, 13 words",
            "MB of text",
            (1,) if small else (4, 8, 16),
            lambda n, folder: decontaminate(n),
            repeats=3,
        ),
    ]


def cluster(documents: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Influences [N] and embeddings [N, D]: a common direction and noise, mean cosine 0.5."""
    random = np.random.default_rng(documents * size)
    emb = random.normal(size=(documents, size)) + random.normal(size=size)
    emb /= np.linalg.norm(emb, axis=1, keepdims=True)
    return random.normal(size=documents).astype(np.float32), emb.astype(np.float32)


def greedy(documents: int, size: int, relation: Relation) -> Pair:
    """Half of a cluster is picked."""
    influence, emb = cluster(documents, size)
    stop = documents // 2
    return Pair(
        lambda: greedy_order(influence, emb, relation, stop)[0],
        lambda: plain.greedy(influence, emb, relation, stop),
        lambda a, b: share(float(np.mean(a == b)), "of picks", 0.9),
    )


def share(equal: float, of: str, least: float) -> tuple[bool, str]:
    return equal >= least, f"{equal:.1%} {of}"


def group(documents: int, folder: Path) -> Pair:
    clusters = max(1, documents // 1000)
    cluster_N = np.random.default_rng(0).integers(0, clusters, documents).astype(np.int32)
    nothing = np.empty(0)

    def ours() -> list[np.ndarray]:
        order = by_cluster(cluster_N)
        members = Members(documents, nothing, nothing, cluster_N[order], nothing, nothing, 0.0)
        return [order[here] for here in members.by_cluster()]

    def agreement(a: list[np.ndarray], b: list[np.ndarray]) -> tuple[bool, str]:
        kept = [members for members in b if len(members)]
        return share(float(np.mean(list(map(np.array_equal, a, kept)))), "of clusters", 1.0)

    return Pair(ours, lambda: plain.group(cluster_N, clusters), agreement)


def read(documents: int, size: int, folder: Path) -> Pair:
    """Row groups of 1,000 documents, as stages take them; in the plain file each row is a list."""
    path, emb_ND = folder / "scored.parquet", cluster(documents, size)[1]
    lists = pa.FixedSizeListArray.from_arrays(pa.array(emb_ND.ravel()), size)
    pq.write_table(pa.table({"embedding": lists}), folder / "lists.parquet", compression="zstd")
    with table_writer(path, "score", Provenance("benchmark", {}), size) as writer:
        for start in range(0, documents, 1000):
            rows = np.arange(start, min(start + 1000, documents))
            writer.write(
                {
                    "doc_id": [f"pool#{row}" for row in rows],
                    "source_file": ["pool"] * len(rows),
                    "source_row": rows,
                    "source": [""] * len(rows),
                    "n_tokens": rows,
                    "individual_influence": rows.astype(np.float32),
                    "embedding": emb_ND[rows],
                }
            )

    def ours() -> list[np.ndarray]:
        return list(embeddings(path, "score"))

    return Pair(ours, lambda: plain.read_embeddings(folder / "lists.parquet"), same_bits)


def same_bits(groups: list[np.ndarray], whole: np.ndarray) -> tuple[bool, str]:
    equal = np.concatenate(groups).tobytes() == whole.tobytes()
    return equal, "same bits" if equal else "different bits"


def beam(documents: int, size: int, width: int) -> Pair:
    """One direction, no cap on a document."""
    influence, emb = cluster(documents, size)

    def ours() -> np.ndarray:
        return search(influence, emb, width, np.full(documents, width * LENGTH))

    def agreement(a: np.ndarray, b: np.ndarray) -> tuple[bool, str]:
        one, other = ({tuple(sorted(beam)) for beam in found.tolist()} for found in (a, b))
        return share(len(one & other) / width, "of sets", 0.9)

    return Pair(ours, lambda: plain.beam(influence, emb, MEAN, width, LENGTH, EXPANSION), agreement)


def search(influence: np.ndarray, emb: np.ndarray, width: int, cap: np.ndarray) -> np.ndarray:
    return rollouts.beam_rollouts(influence, emb, MEAN, width, LENGTH, width, EXPANSION, cap)


def beam_as_in_the_paper(documents: int, size: int) -> Pair:
    """One direction, with the paper's share of beams in the documents and the example's cap."""
    influence, emb = cluster(documents, size)
    width = documents * PAPER_WIDTH // PAPER_DOCUMENTS
    cap = np.full(documents, PAPER_CAP)

    def ours() -> np.ndarray:
        return search(influence, emb, width, cap.copy())

    return Pair(ours, None, lambda a, b: (True, "–"))


def materialise(megabytes: int, folder: Path, ours: str, other: str) -> Pair:
    """Every second document of a pool file is selected; `ours`, `other`: how the pools' names end."""
    records = documents_of(megabytes)
    pools = {end: folder / f"pool{end}" for end in (ours, other)}
    for pool in pools.values():
        write_pool(records, pool)
    rows = np.arange(0, len(records), 2)
    one, two = folder / f"ours{ours}", folder / f"plain{other}"
    straight = plain.copy_table if other == TABLE else plain.copy_lines

    def agreement(a: object, b: object) -> tuple[bool, str]:
        found, expected = read_back(one), read_back(two)
        equal = np.mean([x == y for x, y in zip(found, expected, strict=True)])
        return share(float(equal), "of rows", 1.0)

    return Pair(
        lambda: copy_rows(PoolFile(str(pools[ours]), pools[ours].name), rows, one),
        lambda: straight(pools[other], rows, two),
        agreement,
    )


def decontaminate(megabytes: int) -> Pair:
    """Every hundredth document holds an example of 100 words; there are ten times as many examples."""
    texts = [record["text"] for record in documents_of(megabytes)]
    foreign = [word_windows.words(text)[:100] for text in texts[::10]]
    texts = [text for n, text in enumerate(texts) if n % 10 or n % 100 == 0]
    examples = [" ".join(example) for example in foreign]
    windows = Windows(examples, [0] * len(examples))

    def ours() -> list[tuple[int, list[str]]]:
        return [(found.text, found.words) for found in windows.shared(texts)]

    def agreement(a: list, b: list) -> tuple[bool, str]:
        return a == b, f"the same {len(b):,} windows"

    return Pair(ours, partial(plain.shared_windows, texts, plain.window_set(examples)), agreement)


def write_pool(records: list[dict[str, Any]], pool: Path) -> None:
    if pool.suffix == TABLE:
        pq.write_table(pa.Table.from_pylist(records), pool, row_group_size=1000, compression="zstd")
    else:
        lines = "".join(json.dumps(record) + "\n" for record in records)
        pool.write_bytes(zstandard.ZstdCompressor(level=3).compress(lines.encode()))


def documents_of(megabytes: int) -> list[dict[str, Any]]:
    """Records as of a web crawl: a text of frequent and rare words, an address, some facts."""
    random = np.random.default_rng(megabytes)
    letters = np.array(list("etaoinshrdlucmfwypvbgk"))
    vocabulary = np.array(
        ["".join(random.choice(letters, n)) for n in random.integers(2, 10, 8000)]
    )
    often = 1 / np.arange(10, 8010)
    found, size = [], 0
    while size < megabytes * 1e6:
        length = 20 + int(random.lognormal(np.log(300), 1.1))
        text = " ".join(vocabulary[random.choice(8000, length, p=often / often.sum())])
        size += len(text)
        facts = {"date": "2024-01-01", "status": 200, "digest": random.bytes(16).hex()}
        address = f"https://example.org/{'/'.join(random.choice(vocabulary, 3))}"
        found.append({"text": text, "url": address, "metadata": facts, "quality": random.random()})
    return found


def read_back(path: Path) -> list[dict[str, Any]]:
    if path.suffix == TABLE:
        return pq.read_table(path).to_pylist()
    with zstandard.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]
