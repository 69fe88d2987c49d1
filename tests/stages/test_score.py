"""Scoring: the same rows whatever the files, the batches, or what else is in them."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import killed
import small
import tables
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models import passes
from groupmates.models.influence import InfluenceModel
from groupmates.models.tokenizer import load_tokenizer
from groupmates.settings import config, per_stage
from groupmates.stages import score, shard_rows


@pytest.fixture(scope="module")
def model(small_run, tmp_path_factory) -> Path:
    return small.influence_model(small_run, tmp_path_factory.mktemp("fit") / "final")


def scored(
    folder: Path, model: Path, pieces: int, batch_tokens: int = 100, rows: list[dict] | None = None
):
    """The score table of the small documents dealt to `pieces` files of one shard."""
    rows = small.documents(40) if rows is None else rows
    bounds = np.linspace(0, len(rows), pieces + 1).astype(int)
    paths = [
        small.write_lines(folder / f"{i}.jsonl", rows[bounds[i] : bounds[i + 1]])
        for i in range(pieces)
    ]
    pool = small.marked(folder, paths)
    (check,) = small.check_pool([pool], folder / "check")
    settings = per_stage.ScoreSettings(
        columns=config.PoolColumns(text="text", id="id", source=None),
        bad_records="stop",
        sequence_length=12,
        score=config.Passes(batch_tokens=batch_tokens),
    )
    output = folder / "score.parquet"
    score.run(settings, pool=pool, check=check, model=model, output=output)
    return read_table(output, "score")


def test_files_and_batch_sizes_change_no_score(tmp_path, model):
    first = scored(tmp_path / "1", model, 1)
    for pieces, batch_tokens in ((2, 17), (7, 5000)):
        other = scored(tmp_path / f"{pieces}", model, pieces, batch_tokens)
        assert other["doc_id"].equals(first["doc_id"])
        assert other["n_tokens"].equals(first["n_tokens"])
        influence = other["individual_influence"].to_numpy()
        expected = first["individual_influence"].to_numpy()
        np.testing.assert_allclose(influence, expected, atol=1e-5)
        emb, expected = (
            tables.embedded(tmp_path / f"{folder}/score.parquet", "score") for folder in (pieces, 1)
        )
        np.testing.assert_allclose(emb, expected, atol=1e-5)


def test_tokens_count_the_whole_document_and_its_end(tmp_path, model, small_run):
    table = scored(tmp_path, model, 1)
    tokenizer = load_tokenizer(small_run.tokenizer)
    expected = [len(tokenizer(d["text"])["input_ids"]) + 1 for d in small.documents(40)]
    assert table["n_tokens"].to_pylist() == expected
    assert max(expected) > 13  # longer than what is encoded


def test_a_file_without_documents_has_no_scores(tmp_path, model):
    holed = scored(tmp_path / "one", model, 2, rows=small.documents(1))
    assert holed["doc_id"].to_pylist() == ["doc-000"]


def test_a_file_that_was_replaced_since_its_check_is_refused(tmp_path, model, monkeypatch):
    true = score.Shard.of

    def replaced(pool, check):
        small.write_lines(tmp_path / "0.jsonl", small.documents(41))
        return true(pool, check)

    monkeypatch.setattr(score.Shard, "of", replaced)
    with pytest.raises(UserError, match="bytes, sha256") as caught:
        scored(tmp_path, model, 1)
    assert caught.value.where == str(tmp_path / "0.jsonl")


def test_a_killed_job_goes_on_after_the_row_groups_it_had_saved(tmp_path, model, monkeypatch):
    monkeypatch.setattr(shard_rows, "ROW_GROUP", 5)

    def make(folder: Path) -> Path:
        scored(folder, model, 3)
        return folder / "score.parquet"

    attempts, calls = killed.survives(monkeypatch, tmp_path, InfluenceModel, "score_read", 3, make)
    assert attempts == 5
    assert len(calls) == 9 + 4  # nine row groups, and those at which it died once more


def test_a_row_group_is_tokenised_while_the_one_before_is_scored():
    second = threading.Event()

    def made():
        yield "first"
        second.set()
        yield "second"
        raise UserError(expected="a", found="b", where="c", todo="d")

    items = shard_rows.ahead(made())
    assert next(items) == "first"
    assert second.wait(60)  # though nobody has asked for it
    assert next(items) == "second"
    with pytest.raises(UserError):
        next(items)


def of_little_memory(monkeypatch, most: int) -> list[int]:
    """Sizes of the passes that are tried, where the accelerator holds `most` tokens."""
    score_of, tried = InfluenceModel.score_read, []

    def limited(self, read, batch_tokens, *rest):
        tried.append(batch_tokens)
        if batch_tokens > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return score_of(self, read, batch_tokens, *rest)

    monkeypatch.setattr(InfluenceModel, "score_read", limited)
    monkeypatch.setattr(passes, "LEAST_TOKENS", 10)
    return tried


def test_passes_that_memory_does_not_hold_are_halved_for_good_and_once_said(
    tmp_path, model, monkeypatch, capfd
):
    whole = scored(tmp_path / "whole", model, 2, 100)
    tried = of_little_memory(monkeypatch, 30)
    halved = scored(tmp_path / "halved", model, 2, 100)
    assert tried == [100, 50, 25, 25]  # the second file's begin as the first's ended
    assert capfd.readouterr().err.count("passes of 100 tokens: they have 25 from here on") == 1
    assert halved.drop("individual_influence").equals(whole.drop("individual_influence"))
    halved_ND, whole_ND = (
        tables.embedded(tmp_path / run / "score.parquet", "score") for run in ("halved", "whole")
    )
    np.testing.assert_allclose(halved_ND, whole_ND, atol=1e-5)


def test_memory_that_holds_not_even_a_small_pass_is_said_with_its_size(
    tmp_path, model, monkeypatch
):
    of_little_memory(monkeypatch, 0)
    with pytest.raises(UserError, match="nvidia-smi") as caught:
        scored(tmp_path, model, 1, 45)
    assert caught.value.expected == "memory on the accelerator for a pass of 11 tokens"
    assert caught.value.found == "CUDA out of memory"


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("column", ["influence", "embedding"])
def test_a_score_that_is_no_number_names_the_document_and_its_line(
    tmp_path, model, monkeypatch, value, column
):
    score_of = InfluenceModel.score_read

    def broken(self, read, *rest):
        individual, emb = score_of(self, read, *rest)
        individual, emb = individual.copy(), emb.copy()
        (individual if column == "influence" else emb[:, 2])[5] = value
        return individual, emb

    monkeypatch.setattr(InfluenceModel, "score_read", broken)
    with pytest.raises(UserError, match=r"metrics\.json") as caught:
        scored(tmp_path, model, 2)
    assert caught.value.found == "nan or inf for 'doc-005', one of 1 such"
    assert caught.value.where == f"{tmp_path / '0.jsonl'}, line 6"
    assert not list(tmp_path.glob("score*"))
