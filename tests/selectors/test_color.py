"""color against losses written token by token; its training; shards, kills and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax

import killed
import small
import tables
from groupmates.artefacts.store import read_json, read_table
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.models.reference import Reference, reference_part
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.selectors import color
from groupmates.selectors import order as orders
from groupmates.settings.selectors import Color
from small import documents

POOL = documents(20)
EXAMPLES = 6
COLOR = Color(training_steps=3, learning_rate=1e-3)


def prepared(run: small.Run, folder: Path, chosen: Color = COLOR, seed: int = 0) -> Path:
    output = folder / "prepare/color"
    settings = Color.Prepare(seed=seed, selection_examples=EXAMPLES, color=chosen)
    color.prepare(settings, base=run.base, reference=run.reference, output=output)
    return output


@pytest.fixture(scope="module")
def conditional(small_run, tmp_path_factory) -> Path:
    return prepared(small_run, tmp_path_factory.mktemp("color"))


def keys(
    run: small.Run, model: Path, folder: Path, shards: int = 1, pool: list[dict] = POOL
) -> dict[str, float]:
    """Key of every document."""
    files, score = tables.scored_pool(folder, pool, shards)
    found = {}
    for partition, file in enumerate(files):
        output = folder / f"order/color/part-{partition:05d}.parquet"
        color.order(
            Color.Order(
                text_columns=small.COLUMNS, bad_records="stop", sequence_length=small.SEQUENCE
            ),
            prepared=model,
            base=run.base,
            tokenizer=run.tokenizer,
            pool=[file],
            score=score,
            partition=partition,
            partitions=shards,
            output=output,
        )
        ids = read_table(score[partition], "score", ["doc_id"])["doc_id"].to_pylist()
        table = read_table(output, "order")
        assert set(table["shard"].to_pylist()) == {partition}
        found |= {ids[r["row"]]: r["key"] for r in table.to_pylist()}
    assert len(found) == len(pool)
    return found


def by_hand(run: small.Run, model: Path, text: str) -> float:
    """Mean loss under one model minus that under the other, a document at a time."""
    ids = document_tokens(load_tokenizer(run.tokenizer), [text], small.SEQUENCE + 1)[0]
    tokens = torch.tensor(ids.astype(np.int64))[None]
    losses = []
    for folder in (model, run.base):
        with torch.no_grad():
            logits = lm.load_lm(folder).eval()(input_ids=tokens).logits[0]
        predicted = log_softmax(logits.double(), -1)
        losses.append(-np.mean([float(predicted[t, ids[t + 1]]) for t in range(len(ids) - 1)]))
    return losses[0] - losses[1]


def test_the_key_is_the_change_of_the_mean_loss_per_predicted_token(
    small_run, conditional, tmp_path
):
    found = keys(small_run, conditional, tmp_path)
    expected = {d["id"]: by_hand(small_run, conditional, d["text"]) for d in POOL}
    assert found == pytest.approx(expected, abs=1.5e-5)  # a grid of 2^-16
    # Here nearly all become likelier: the other sign, or one model alone, would be no such numbers.
    assert np.mean(list(found.values())) < -1e-3
    assert len(set(found.values())) > 15


def test_shards_blocks_and_batches_change_nothing(small_run, conditional, tmp_path, monkeypatch):
    pool = [*POOL, *({"id": f"copy-{i}", "text": POOL[0]["text"]} for i in range(3))]
    found = [
        keys(small_run, conditional, tmp_path / str(shards), shards, pool) for shards in (1, 2, 7)
    ]
    monkeypatch.setattr(orders, "TOGETHER", 3)
    monkeypatch.setattr(lm, "pass_tokens", lambda model: 30)
    found.append(keys(small_run, conditional, tmp_path / "blocks", 2, pool))
    assert found[0] == found[1] == found[2] == found[3]
    assert len({found[0][i] for i in ("doc-000", "copy-0", "copy-1", "copy-2")}) == 1


def test_a_document_that_predicts_nothing_comes_last(small_run, conditional):
    models = [lm.load_lm(folder).eval() for folder in (conditional, small_run.base)]
    one, two = np.array([3], np.int32), np.array([3, 4], np.int32)
    losses = lm.mean_losses(models[0], [one, two, one])
    assert np.isnan(losses).tolist() == [True, False, True]
    color.check_scores(losses, [one, two, one], ["a", "b", "c"], small_run.base)
    with pytest.raises(UserError, match="'b', one of 1"):
        color.check_scores(np.full(3, np.nan), [one, two, one], ["a", "b", "c"], small_run.base)


def test_a_text_without_tokens_has_the_last_key(small_run, conditional, tmp_path, monkeypatch):
    only_end = document_tokens(load_tokenizer(small_run.tokenizer), [""])[0]
    monkeypatch.setattr(color, "document_tokens", lambda *_: [only_end, only_end])
    assert set(keys(small_run, conditional, tmp_path, pool=POOL[:2]).values()) == {np.inf}


# The training


def test_the_model_is_trained_by_adamw_on_all_examples_at_once(small_run, conditional):
    model = lm.load_lm(small_run.base).train()
    optimizer = lm.make_optimizer(model, small.ADAMW.model_copy(update={"learning_rate": 1e-3}))
    lm.load_optimizer(optimizer, model, small_run.base / "optimizer.safetensors")
    examples = reference_part(small_run.reference, "selection", EXAMPLES)[0]
    losses = [examples.loss(model)]
    for _ in range(3):
        optimizer.zero_grad()
        total = 0.0
        for ids, row, position, labels, _ in examples.batches:
            predicted = log_softmax(model(input_ids=ids).logits[row, position], -1)
            total = total - predicted.gather(1, labels[:, None]).sum()
        (total / int(examples.labels_N.sum())).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), small.ADAMW.clip_norm)
        optimizer.step()
        losses.append(examples.loss(model))
    assert read_json(conditional / color.LOSSES)["losses_nats"] == pytest.approx(losses, rel=1e-5)
    assert losses[-1] < losses[0]
    ours = lm.load_lm(conditional).state_dict()
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=1e-6)


def test_a_killed_training_takes_no_step_twice_and_ends_with_the_same_bytes(
    small_run, tmp_path, monkeypatch
):
    attempts, steps = killed.survives(
        monkeypatch, tmp_path, Reference, "pull_back", 2, lambda folder: prepared(small_run, folder)
    )
    assert len(steps) == 3 + attempts - 1 > 3


def test_a_killed_order_reads_no_block_twice_and_writes_the_same_bytes(
    small_run, conditional, tmp_path, monkeypatch
):
    monkeypatch.setattr(orders, "TOGETHER", 3)

    def make(folder: Path) -> Path:
        keys(small_run, conditional, folder)
        return folder / "order/color/part-00000.parquet"

    attempts, calls = killed.survives(monkeypatch, tmp_path, color.lm, "mean_losses", 5, make)
    # Seven blocks and two models; of a killed attempt the block that it died in.
    assert attempts > 2
    assert len(calls) <= 14 + 2 * (attempts - 1)


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_learning_rate_at_which_the_reference_is_not_learned_is_refused(
    small_run, tmp_path, rate
):
    chosen = COLOR.model_copy(update={"learning_rate": rate})
    with pytest.raises(UserError) as caught:
        prepared(small_run, tmp_path, chosen)
    assert "reference loss" in caught.value.expected
    assert caught.value.where == "select.methods: color"
    assert "select.color.learning_rate" in caught.value.todo
    assert not (tmp_path / "prepare/color").exists()


def test_the_record_names_models_and_tokenizer(small_run, conditional, tmp_path):
    keys(small_run, conditional, tmp_path)
    table = read_table(tmp_path / "order/color/part-00000.parquet", "order")
    inputs = json.loads(table.schema.metadata[b"groupmates"])["inputs"]
    assert {"prepared", "base", "tokenizer", "score[0]"} == set(inputs)
