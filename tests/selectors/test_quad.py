"""quad against the same bandit written with loops and single backward passes; kills and refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

import killed
import scored
import small
import tables
from groupmates.artefacts.store import digest, read_table, table_record
from groupmates.errors import UserError
from groupmates.maths.randomness import hash64
from groupmates.models import language_model as lm
from groupmates.models.gradients import AttentionGradients
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.selectors import quad, quad_influences
from groupmates.settings.selectors import Quad
from small import documents

POOL = documents()
CLUSTER = np.random.default_rng(2).integers(0, 5, len(POOL))
ANGLES = np.array([0.0, 0.1, 1.0, 2.0, 3.0])  # the first two are neighbours
CENTRES = np.stack([np.cos(ANGLES), np.sin(ANGLES)], axis=1).astype(np.float32)
EXAMPLES = 6
QUAD = {
    "iterations": 4,
    "arms_per_iteration": 2,
    "documents_per_arm": 3,
    "threshold": None,
    "exploration": 1e-3,
    "neighbour_distance": 0.2,
    "hessian": "none",
    "damping": 1e-3,
    "cg_iterations": 5,
    "cg_tolerance": 1e-3,
}


class Files:
    """A pool in files of one shard each, its scores and its clusters."""

    def __init__(self, folder: Path, shards: int = 2) -> None:
        self.folder = folder
        self.pool, self.score = tables.scored_pool(folder, POOL, shards)
        self.centroids = scored.write_centroids(folder / "cluster/centroids.npy", CENTRES)
        self.cluster = [folder / "cluster" / path.name for path in self.score]
        for path, rows in zip(
            self.cluster, np.array_split(np.arange(len(POOL)), shards), strict=True
        ):
            ids = [POOL[i]["id"] for i in rows]
            tables.write(path, "cluster", doc_id=ids, cluster=CLUSTER[rows])
        self.prepared = folder / "prepare/quad"
        self.probed = self.prepared / quad.PROBED
        self.clusters = self.prepared / quad.CLUSTERS
        self.order = folder / "order/quad/part-00000.parquet"

    def probe(self, run: small.Run, pool: list[str] | None = None, **changed: object) -> list[dict]:
        quad.prepare(
            Quad.Prepare(
                seed=0,
                text_columns=small.COLUMNS,
                selection_examples=EXAMPLES,
                sequence_length=small.SEQUENCE,
                quad=Quad.model_validate(QUAD | changed),
            ),
            base=run.base,
            tokenizer=run.tokenizer,
            reference=run.reference,
            pool=self.pool if pool is None else pool,
            score=self.score,
            cluster=self.cluster,
            centroids=self.centroids,
            output=self.prepared,
        )
        return read_table(self.probed, "quad").to_pylist()

    def put_in_order(self) -> list[str]:
        quad.order(
            Quad.Order(seed=0),
            prepared=self.prepared,
            score=self.score,
            cluster=self.cluster,
            output=self.order,
        )
        keys = [("key", "ascending"), ("rank", "ascending"), ("shard", "ascending")]
        table = read_table(self.order, "order").sort_by([*keys, ("row", "ascending")]).to_pylist()
        starts = np.cumsum([0, *(read_table(p, "score").num_rows for p in self.score)])
        assert len(table) == len(POOL)
        return [POOL[starts[row["shard"]] + row["row"]]["id"] for row in table]


@pytest.fixture(scope="module")
def influence(small_run) -> dict[str, float]:
    """Of every document, by two plain backward passes."""
    model = lm.load_lm(small_run.base).eval()
    attention = [p for name, p in model.named_parameters() if "self_attn" in name]
    examples = reference_part(small_run.reference, "selection", EXAMPLES)[0]
    losses, labels = [], 0
    for ids, row, position, label, _ in examples.batches:
        losses.append(
            cross_entropy(model(input_ids=ids).logits[row, position], label, reduction="sum")
        )
        labels += len(label)
    wanted = torch.autograd.grad(sum(losses) / labels, attention)
    found = {}
    tokens = document_tokens(
        load_tokenizer(small_run.tokenizer), [d["text"] for d in POOL], small.SEQUENCE + 1
    )
    for document, sequence in zip(POOL, tokens, strict=True):
        ids = torch.from_numpy(sequence.astype(np.int64))[None]
        logits = model(input_ids=ids[:, :-1]).logits[0]
        penalty = small.ADAMW.z_loss * logits.logsumexp(-1).square().mean()
        own = torch.autograd.grad(cross_entropy(logits, ids[0, 1:]) + penalty, attention)
        found[document["id"]] = -float(sum((a * b).sum() for a, b in zip(wanted, own, strict=True)))
    return found


def by_hand(
    influence: dict[str, float], iterations: int, arms: int, each: int
) -> tuple[list[tuple[int, int, str]], list[float]]:
    """(iteration, cluster, document) as they are probed, and the clusters' mean rewards in the end."""
    waiting: dict[int, list[str]] = {c: [] for c in range(5)}
    for i in np.argsort([hash64(0, "quad", d["id"]) for d in POOL], kind="stable"):
        waiting[int(CLUSTER[i])].append(POOL[i]["id"])
    size = {c: len(w) for c, w in waiting.items()}
    near = {
        (a, b): 1 - abs(np.linalg.norm(CENTRES[a] - CENTRES[b])) / 0.2 for a in size for b in size
    }
    visits: list[tuple[int, float]] = []
    own: dict[int, list[float]] = {c: [] for c in size}
    probed = []

    def rewards() -> tuple[list[float], list[float]]:
        known = [c for c in size if own[c]]
        total = sum(size[c] for c in known)
        threshold = sum(size[c] * float(np.mean(own[c])) / total for c in known)
        weight, sums = [], []
        for c in size:
            shares = [(max(0.0, near[c, arm]), threshold - mean) for arm, mean in visits]
            weight.append(sum(w for w, _ in shares))
            sums.append(sum(w * r for w, r in shares) / max(1.0, weight[-1]))
        return sums, weight

    for iteration in range(1, iterations + 1):
        mean, weight = rewards()
        log = np.log(max(1.0, sum(weight)))
        score = [m + 1e-3 * np.sqrt(2 * log / (w + 1)) for m, w in zip(mean, weight, strict=True)]
        able = [c for c in sorted(size, key=lambda c: (-score[c], c)) if waiting[c]]
        for c in able[:arms]:
            drawn, waiting[c] = waiting[c][:each], waiting[c][each:]
            visits.append((c, float(np.mean([influence[d] for d in drawn]))))
            own[c] += [influence[d] for d in drawn]
            probed += [(iteration, c, d) for d in drawn]
    return probed, rewards()[0]


def test_the_bandit_probes_what_one_written_by_hand_does(small_run, tmp_path, influence):
    rows = Files(tmp_path).probe(small_run)
    probed, rewards = by_hand(influence, 4, 2, 3)
    assert [(r["iteration"], r["cluster"], r["doc_id"]) for r in rows] == probed
    np.testing.assert_allclose(
        [r["influence"] for r in rows], [influence[d] for _, _, d in probed], rtol=1e-3, atol=1e-7
    )
    assert len(probed) == len({d for _, _, d in probed}) == 23  # one cluster had two left
    assert len({c for _, c, _ in probed}) > 2
    known = read_table(Files(tmp_path).clusters, "quad_clusters").to_pydict()
    np.testing.assert_allclose(known["reward"], rewards, rtol=1e-3, atol=1e-7)
    assert known["probed"] == [sum(c == k for _, c, _ in probed) for k in range(5)]
    assert known["documents"] == np.bincount(CLUSTER).tolist()


def test_the_order_is_by_reward_of_the_cluster_then_as_documents_are_drawn(
    small_run, tmp_path, influence
):
    files = Files(tmp_path)
    rows = files.probe(small_run)
    found = files.put_in_order()
    _, rewards = by_hand(influence, 4, 2, 3)
    cluster_of = {d["id"]: int(c) for d, c in zip(POOL, CLUSTER, strict=True)}
    expected = sorted(
        (d["id"] for d in POOL), key=lambda i: (-rewards[cluster_of[i]], hash64(0, "quad", i))
    )
    assert found == expected
    best = max(range(5), key=rewards.__getitem__)
    probed = [r["doc_id"] for r in rows if r["cluster"] == best]
    assert found[: len(probed)] == probed


def test_shards_change_nothing(small_run, tmp_path):
    found = []
    for shards in (1, 2, 7):
        files = Files(tmp_path / str(shards), shards)
        found.append((files.probe(small_run), files.put_in_order()))
    assert found[0] == found[1] == found[2]


def test_all_documents_are_probed_and_no_more_where_iterations_abound(small_run, tmp_path):
    rows = Files(tmp_path).probe(small_run, iterations=50)
    assert sorted(r["doc_id"] for r in rows) == sorted(d["id"] for d in POOL)


def test_the_curvature_changes_the_influences(small_run, tmp_path):
    plain, curved = (
        {
            r["doc_id"]: r["influence"]
            for r in Files(tmp_path / h).probe(
                small_run, hessian=h, iterations=50, damping=1e-4, cg_iterations=10
            )
        }
        for h in ("none", "gauss_newton")
    )
    a, b = (np.array([found[d["id"]] for d in POOL]) for found in (plain, curved))
    assert 0.0 < np.corrcoef(a, b)[0, 1] < 0.999


def test_a_killed_job_measures_no_batch_twice_and_writes_the_same_bytes(
    small_run, tmp_path, monkeypatch, capsys
):
    """It dies at every third batch of two documents or so."""
    monkeypatch.setattr(quad_influences, "pass_tokens", lambda model: 60)

    def make(folder: Path) -> Path:
        files = Files(folder)
        files.probe(small_run)
        return files.probed

    attempts, calls = killed.survives(monkeypatch, tmp_path, AttentionGradients, "dots", 3, make)
    measured = sum(len(call[1]) for number, call in enumerate(calls, 1) if number % 3)
    assert attempts > 3
    assert measured == 23
    told = capsys.readouterr().err
    assert told.count("goes on after") == attempts - 1
    assert "of 24 documents" in told


def test_the_tokenizer_is_one_of_the_inputs_that_are_recorded(small_run, tmp_path):
    files = Files(tmp_path)
    files.probe(small_run)
    inputs = table_record(files.probed, "quad")["inputs"]
    assert {"base", "tokenizer", "reference", "centroids", "score[0]", "cluster[1]"} <= set(inputs)
    assert inputs["tokenizer"] == digest(small_run.tokenizer)


# Refusals


def test_a_pool_file_that_is_gone_is_named(small_run, tmp_path):
    files = Files(tmp_path)
    Path(files.pool[1]).unlink()
    with pytest.raises(UserError) as caught:
        files.probe(small_run, iterations=50)
    assert caught.value.where == str(Path(files.pool[1]))
    assert "restore it" in caught.value.todo
    assert not files.probed.exists()


def test_a_pool_file_that_was_replaced_since_it_was_scored_is_refused(small_run, tmp_path):
    files = Files(tmp_path)
    path = Path(files.pool[1])
    size = path.stat().st_size
    small.write_lines(path, POOL)
    with pytest.raises(UserError, match=f"{size:,} bytes, sha256") as caught:
        files.probe(small_run, iterations=50)
    assert caught.value.where == str(path)


def test_a_pool_file_that_is_no_longer_part_of_the_pool_is_named(small_run, tmp_path):
    files = Files(tmp_path)
    with pytest.raises(UserError, match=r"f1\.jsonl") as caught:
        files.probe(small_run, pool=files.pool[:1], iterations=50)
    assert caught.value.where == "pool.paths"


def test_what_was_found_of_other_clusters_is_refused(small_run, tmp_path):
    files = Files(tmp_path)
    files.probe(small_run)
    rows = read_table(files.score[0], "score").num_rows
    ids = read_table(files.cluster[0], "cluster")["doc_id"]
    tables.write(files.cluster[0], "cluster", doc_id=ids, cluster=np.full(rows, 4))
    with pytest.raises(UserError, match="of the same sizes"):
        files.put_in_order()
