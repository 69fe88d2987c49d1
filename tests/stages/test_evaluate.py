"""The evidence: the drawn documents are those of the selection, with equal tokens from one start."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import small
import tables
import trainings
from groupmates.artefacts.store import Provenance, read_table
from groupmates.artefacts.unfinished import Kept
from groupmates.errors import UserError
from groupmates.maths.packing import windows
from groupmates.models.checkpoint import open_base
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.pool.listing import located
from groupmates.settings import per_stage
from groupmates.stages import evaluate, reference
from groupmates.stages.selected_tokens import kept_of, read_selected

FILES = ["books/a.jsonl", "web/a.jsonl", "web/b.jsonl"]


def settings(**changed: object) -> per_stage.EvaluateSettings:
    few = {"tokens": 200, "learning_rate_warmup_steps": 1, "points": 3}
    return trainings.evaluate_settings(**(few | changed))


def selection(counts: dict[str, int]) -> pa.Table:
    """A selection of `counts` documents of each file, the i-th with 10 + i tokens."""
    names = pa.array([name for name, n in counts.items() for _ in range(n)])
    tokens = np.arange(len(names)) + 10
    rows = np.concatenate([3 * np.arange(n) for n in counts.values()])
    columns = {"source_file": names.dictionary_encode(), "source_row": rows, "n_tokens": tokens}
    return pa.table(columns)


@pytest.fixture
def pool(tmp_path, small_run) -> tuple[list[Path], list[str]]:
    """Two selection shards of every third line of the pool's three files, none of the second."""
    root = tmp_path / "pool"
    rows, tokenizer = small.documents(30), load_tokenizer(small_run.tokenizer)
    parts = {FILES[0]: rows[:12], FILES[1]: [], FILES[2]: rows[12:]}
    for name, part in parts.items():
        other = {"id": "x", "text": "not selected"}
        small.write_lines(root / name, [r for row in part for r in (row, other, other)] or [other])
    files, shards = small.marked(root, FILES), []
    for number, names in enumerate((FILES[:2], FILES[2:])):
        found = [(name, 3 * i, row) for name in names for i, row in enumerate(parts[name])]
        shards.append(
            tables.selection(
                tmp_path / f"select/random/shard-{number}.parquet",
                [(name, place) for name, place, _ in found],
                small.marked(root, names),
                n_tokens=[
                    len(t) for t in document_tokens(tokenizer, [r["text"] for *_, r in found])
                ],
            )
        )
    return shards, files


def evaluated(run, pool, folder: Path, method: str = "random", number: int = 0, **changed):
    select, files = pool
    curve = folder / f"evaluate/{method}/seed-{number}.parquet"
    examples = folder / f"evaluate/{method}/seed-{number}.examples.parquet"
    evaluate.run(
        settings(**changed),
        base=run.base,
        tokenizer=run.tokenizer,
        reference=run.reference,
        select=select,
        pool=files,
        number=number,
        curve=curve,
        examples=examples,
    )
    return read_table(curve, "curve"), read_table(examples, "example_losses")


# Which documents are trained on


def test_rows_are_those_of_the_pool_s_files():
    # Everything is drawn.
    drawn = evaluate.draw_documents(selection({"a": 2, "b": 3}), 10**9, np.random.default_rng(0))
    assert drawn["source_file"].to_pylist() == ["a", "a", "b", "b", "b"]
    assert drawn["source_row"].to_pylist() == [0, 3, 0, 3, 6]


def test_documents_are_drawn_until_the_tokens_are_reached_and_no_further():
    table = selection({"a": 20, "b": 20})
    for seed in range(20):
        drawn = evaluate.draw_documents(table, 300, np.random.default_rng(seed))
        total = drawn["n_tokens"].to_numpy().sum()
        assert total >= 306  # with the margin for ends that packing drops
        assert total - 49 < 306  # without one of the largest it would be too few


def test_every_document_is_drawn_about_equally_often():
    files = selection({"a": 5, "b": 5})["source_file"]
    rows = [*range(5), *range(5)]
    table = pa.table({"source_file": files, "source_row": rows, "n_tokens": [10] * 10})
    counts = np.zeros(10)
    for seed in range(400):
        drawn = evaluate.draw_documents(table, 48, np.random.default_rng(seed))
        offset = np.array([5 * (name == "b") for name in drawn["source_file"].to_pylist()])
        counts[drawn["source_row"].to_numpy() + offset] += 1
    assert counts.sum() == 400 * 5
    assert np.abs(counts - 200).max() < 5 * 10  # five standard deviations


def test_the_drawn_rows_are_read_as_the_documents_of_the_selection(small_run, pool, tmp_path):
    _, files = pool
    tokenizer = load_tokenizer(small_run.tokenizer)
    names = pa.array([FILES[0], FILES[0], FILES[2]]).dictionary_encode()
    drawn = pa.table({"source_file": names, "source_row": [0, 33, 9]})
    kept = Kept(tmp_path / "examples", "example_losses", Provenance("evaluate", {}))
    read_selected(kept, located(files), drawn, "text", tokenizer, np.dtype(np.int32), "tokens")
    texts = [small.documents()[i]["text"] for i in (0, 11, 12 + 3)]
    expected = document_tokens(tokenizer, texts)
    (tokens,), (lengths,) = (map(np.load, kept_of(kept, name)) for name in ("tokens", "lengths"))
    assert tokens.tolist() == np.concatenate(expected).tolist()
    assert lengths.tolist() == [len(t) for t in expected]


def test_batches_use_every_window_of_a_pass_before_any_comes_again():
    documents = [np.arange(i * 100, i * 100 + small.SEQUENCE + 1) for i in range(5)]
    stream = evaluate.training_batches(documents, settings(), np.random.default_rng(0))
    # 125 tokens are 5 windows a pass: five batches of two are two passes.
    batches = [next(stream).numpy() for _ in range(5)]
    assert all(b.shape == (2, small.SEQUENCE + 1) for b in batches)
    first_pass = np.concatenate(batches)[:5]
    assert len({tuple(w) for w in first_pass.tolist()}) == 5
    targets = first_pass[:, 1:].ravel().tolist()
    assert len(set(targets)) == len(targets) == 5 * small.SEQUENCE


@pytest.mark.parametrize("size", [1, 2, 5, 7, 12])
def test_batches_are_those_of_passes_shuffled_as_a_whole_below_each_other(size):
    rng = np.random.default_rng(1)
    documents = [rng.integers(0, 99, n).astype(np.int32) for n in (30, 5, 61, 40)]  # 5 windows
    random, passes = np.random.default_rng(0), []
    for _ in range(8):
        flat = np.concatenate([documents[i] for i in random.permutation(len(documents))])
        rows = windows(flat, small.SEQUENCE)
        passes.append(rows[random.permutation(len(rows))])
    expected = np.concatenate(passes)
    stream = evaluate.training_batches(
        documents, settings(batch_sequences=size), np.random.default_rng(0)
    )
    batches = [next(stream) for _ in range(len(expected) // size)]
    assert {b.dtype for b in batches} == {torch.int64}
    found = torch.cat(batches).cpu().numpy()
    assert np.array_equal(found, expected[: len(found)])


def test_a_selection_too_short_for_one_window_is_refused():
    stream = evaluate.training_batches([np.arange(5)], settings(), np.random.default_rng(0))
    with pytest.raises(UserError, match=r"select\.budget"):
        next(stream)


def test_a_pool_file_that_was_replaced_since_it_was_scored_is_refused(small_run, pool, tmp_path):
    file = tmp_path / "pool" / FILES[0]
    size = file.stat().st_size
    small.write_lines(file, small.documents(40))
    with pytest.raises(UserError, match=f"{size:,} bytes, sha256") as caught:
        evaluated(small_run, pool, tmp_path)
    assert caught.value.where == str(file)


# Curves


@pytest.mark.parametrize(("tokens", "steps"), [(1, 1), (48, 1), (49, 2), (200, 5)])
def test_steps_are_tokens_rounded_up_to_whole_batches(tokens, steps):
    assert evaluate.steps_of(settings(tokens=tokens)) == steps


def test_a_curve_starts_at_the_base_loss_for_every_method_and_seed(small_run, pool, tmp_path):
    model, _, _ = open_base(small_run.base)
    base_loss = reference_part(small_run.reference, "evaluation", 6)[0].loss(model)
    curves = [
        evaluated(small_run, pool, tmp_path, method, number)[0]
        for method in ("random", "group_mates")
        for number in (0, 1)
    ]
    for curve in curves:
        assert curve["loss_nats"][0].as_py() == base_loss
        assert curve["tokens"].to_pylist() == [0, 2 * 48, 5 * 48]
    # The seed draws documents; methods with one selection and one seed are the same training.
    assert curves[0].equals(curves[2])
    assert not curves[0].equals(curves[1])


def test_example_losses_add_up_to_the_last_point_of_the_curve(small_run, pool, tmp_path):
    curve, examples = evaluated(small_run, pool, tmp_path)
    total = examples["loss_sum_nats"].to_numpy().sum() / examples["label_tokens"].to_numpy().sum()
    assert curve["loss_nats"][-1].as_py() == pytest.approx(total, abs=1e-12)
    table = read_table(small_run.reference, "reference").to_pylist()
    held_out = [row["example_id"] for row in table if row["split"] == "evaluation"]
    used = examples["example_id"].to_pylist()
    assert used == sorted(held_out[:6])


def test_training_on_the_selection_moves_the_loss_and_leaves_the_base(small_run, pool, tmp_path):
    before = (small_run.base / "model.safetensors").read_bytes()
    losses = evaluated(small_run, pool, tmp_path)[0]["loss_nats"].to_pylist()
    assert len(set(losses)) == 3
    assert (small_run.base / "model.safetensors").read_bytes() == before


def test_a_learning_rate_that_breaks_the_training_is_told(small_run, pool, tmp_path):
    with pytest.raises(UserError, match=r"evaluate\.training\.learning_rate") as caught:
        evaluated(small_run, pool, tmp_path, learning_rate=1e38)
    assert caught.value.where == "evaluate random seed 0, step 4 of 5"
    assert not list(tmp_path.rglob("*seed-0*.parquet"))


def test_a_held_out_example_longer_than_the_models_positions_is_refused(small_run, pool, tmp_path):
    path = tmp_path / "long.parquet"
    reference.run(
        small.reference_settings(max_tokens=200),
        reference=[str(small_run.folder / "reference.jsonl")],
        tokenizer=small_run.tokenizer,
        output=path,
    )
    with pytest.raises(UserError, match="at most 25 tokens") as caught:
        evaluated(replace(small_run, reference=path), pool, tmp_path)
    assert caught.value.where == "the evaluation part of the reference set"
    assert "sample.sequence_length or reference.split.max_tokens" in caught.value.todo


def test_provenance_has_the_training_seed(small_run, pool, tmp_path):
    evaluated(small_run, pool, tmp_path, number=4)
    path = tmp_path / "evaluate/random/seed-4.parquet"
    record = json.loads(pq.read_schema(path).metadata[b"groupmates"])
    assert record["settings"]["number"] == 4
    assert {"base", "reference", "select[0]", "select[1]"} <= set(record["inputs"])
