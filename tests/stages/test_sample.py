"""The sample depends on the documents alone, and its tokenizer is that of all later stages."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import brought
import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models.tokenizer import (
    END_OF_TEXT,
    document_tokens,
    load_tokenizer,
    token_lists,
)
from groupmates.stages import sample

CONTENT = ("doc_id", "text", "input_ids")


def sampled(folder: Path, files: list[list[dict]], settings=None) -> Path:
    """A sample of a pool of several files, below `folder`."""
    pool = [
        small.write_lines(folder / f"pool/{number}.jsonl", rows)
        for number, rows in enumerate(files)
    ]
    sample.run(
        settings or small.sample_settings(),
        pool=small.marked(folder / "pool", pool),
        tokenizer=folder / "tokenizer",
        probe_pool=folder / "probe_pool.parquet",
        training_pool=folder / "training_pool.parquet",
    )
    return folder


def content(folder: Path, name: str) -> pa.Table:
    return read_table(folder / f"{name}.parquet", name, list(CONTENT))


def dealt(documents: list[dict], files: int, seed: int) -> list[list[dict]]:
    order = np.random.default_rng(seed).permutation(len(documents))
    return [[documents[i] for i in part] for part in np.array_split(order, files)]


@pytest.mark.parametrize("files", [1, 2, 7])
def test_the_sample_does_not_depend_on_how_documents_lie_in_files(small_run, tmp_path, files):
    settings = small.sample_settings(probe_documents=10, training_documents=10)
    one = sampled(tmp_path / "one", [small.documents()], settings)
    other = sampled(tmp_path / "other", dealt(small.documents(), files, files), settings)
    for name in ("probe_pool", "training_pool"):
        assert content(one, name).equals(content(other, name))
    for file in ("tokenizer.json",):
        assert (one / "tokenizer" / file).read_bytes() == (other / "tokenizer" / file).read_bytes()


def test_another_seed_draws_other_documents(tmp_path):
    settings = small.sample_settings(10, 10)
    one = sampled(tmp_path / "one", [small.documents()], settings)
    other = sampled(
        tmp_path / "other", [small.documents()], settings.model_copy(update={"seed": 1})
    )
    ids = [set(content(f, "probe_pool")["doc_id"].to_pylist()) for f in (one, other)]
    assert ids[0] != ids[1]


def test_a_larger_probe_pool_keeps_the_documents_of_the_smaller_one(tmp_path):
    few = sampled(tmp_path / "few", [small.documents()], small.sample_settings(5, 5))
    many = sampled(tmp_path / "many", [small.documents()], small.sample_settings(9, 5))
    ids = [content(f, "probe_pool")["doc_id"].to_pylist() for f in (few, many)]
    assert ids[0] == ids[1][:5]


def test_probe_and_training_pool_have_no_common_document(small_run):
    probed = read_table(small_run.probe_pool, "probe_pool")["doc_id"].to_pylist()
    trained = read_table(small_run.training_pool, "training_pool")["doc_id"].to_pylist()
    assert (len(probed), len(trained)) == (24, 16)
    assert len(set(probed) | set(trained)) == 40


def test_a_sampled_row_says_where_it_lies_and_what_its_tokens_are(small_run):
    tokenizer = load_tokenizer(small_run.tokenizer)
    rows = small.documents()
    table = read_table(small_run.probe_pool, "probe_pool")
    for row, ids in zip(table.to_pylist(), token_lists(table), strict=True):
        assert row["source_file"] == "a.jsonl"
        assert rows[row["source_row"]] == {"id": row["doc_id"], "text": row["text"]}
        whole = [*tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]
        assert ids.tolist() == whole[: small.SEQUENCE + 1]
    trained = read_table(small_run.training_pool, "training_pool")
    assert all(ids[-1] == tokenizer.eos_token_id for ids in token_lists(trained))


def test_the_saved_tokenizer_truncates_nothing(small_run):
    assert load_tokenizer(small_run.tokenizer).backend_tokenizer.truncation is None


def test_an_id_that_is_drawn_twice_is_refused_with_both_places(tmp_path):
    files = [small.documents()[:20], small.documents()[19:]]
    with pytest.raises(UserError, match="every document id once") as caught:
        sampled(tmp_path, files)
    assert "doc-019" in caught.value.found
    assert f"{tmp_path}/pool/0.jsonl, line 20" in caught.value.where
    assert f"{tmp_path}/pool/1.jsonl, line 1" in caught.value.where
    assert not (tmp_path / "probe_pool.parquet").exists()


def test_too_few_documents_say_how_many_there_are(tmp_path):
    with pytest.raises(UserError, match="at least 41 documents") as caught:
        sampled(tmp_path, [small.documents()], small.sample_settings(41, 5))
    assert caught.value.found == "40"
    assert "sample.probe_documents" in caught.value.todo


def test_a_pool_without_documents_to_spare_warms_up_on_the_probed_ones(tmp_path, capsys):
    folder = sampled(tmp_path, [small.documents()], small.sample_settings(40, 5))
    assert "WARNING" in capsys.readouterr().err
    assert content(folder, "training_pool")["doc_id"] == content(folder, "probe_pool")["doc_id"]


def test_a_given_tokenizer_is_taken_instead_of_a_trained_one(small_run, tmp_path):
    settings = small.sample_settings(tokenizer=str(small_run.tokenizer), vocabulary_size=5000)
    other = [{**d, "text": "entirely other text " + d["id"]} for d in small.documents()]
    folder = sampled(tmp_path, [other], settings)
    given, taken = (load_tokenizer(f) for f in (small_run.tokenizer, folder / "tokenizer"))
    assert given.get_vocab() == taken.get_vocab()


def chat_tokenizer(folder: Path) -> Path:
    """Its eos_token ends a turn, as that of SmolLM2-135M-Instruct does."""
    tokenizer = load_tokenizer(brought.bytes_tokenizer(folder))
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>"})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("named", [None, END_OF_TEXT])
def test_documents_end_with_the_token_that_is_named(tmp_path, capsys, named):
    given = chat_tokenizer(tmp_path / "chat")
    settings = small.sample_settings(tokenizer=str(given), end_of_text=named)
    folder = sampled(tmp_path, [small.documents()], settings)
    saved = load_tokenizer(folder / "tokenizer")
    end = saved.convert_tokens_to_ids(named or "<|im_end|>")
    assert saved.eos_token_id == end
    assert {ids[-1] for ids in token_lists(content(folder, "training_pool"))} == {end}
    # A turn's end is told, because a pretrained model takes it for the start of something else.
    assert ("set sample.end_of_text" in capsys.readouterr().err) == (named is None)


def test_an_end_of_text_that_is_no_token_is_refused(tmp_path):
    given = chat_tokenizer(tmp_path / "chat")
    settings = small.sample_settings(tokenizer=str(given), end_of_text="</s>")
    with pytest.raises(UserError, match="the token '</s>'") as caught:
        sampled(tmp_path, [small.documents()], settings)
    assert "<|im_end|>" in caught.value.found


@pytest.mark.parametrize("in_text", [False, True])
def test_the_tokenizer_keeps_whether_a_spelt_special_token_is_one(tmp_path, in_text):
    """Saved, loaded, and saved once more, as with a model."""
    rows = [d | {"text": f"{d['text']}<|endoftext|> more"} for d in small.documents()]
    settings = small.sample_settings(special_tokens_in_text=in_text)
    folder = sampled(tmp_path, [rows], settings)
    load_tokenizer(folder / "tokenizer").save_pretrained(folder / "again")
    for path in (folder / "tokenizer", folder / "again"):
        tokenizer = load_tokenizer(path)
        (ids,) = document_tokens(tokenizer, ["one<|endoftext|>two"])
        assert ids.tolist().count(tokenizer.eos_token_id) == 1 + in_text
    for name in ("probe_pool", "training_pool"):
        table = read_table(folder / f"{name}.parquet", name)
        ends = [ids.tolist().count(tokenizer.eos_token_id) for ids in token_lists(table)]
        whole = [len(ids) < small.SEQUENCE + 1 for ids in token_lists(table)]
        if name == "training_pool":
            assert set(ends) == {1 + in_text}
        elif not in_text:
            assert all(n <= 1 and n >= w for n, w in zip(ends, whole, strict=True))


def test_a_file_without_documents_is_sampled_from_as_any(tmp_path):
    whole = sampled(tmp_path / "whole", [small.documents()])
    holed = sampled(tmp_path / "holed", [[], small.documents(), []])
    for name in ("probe_pool", "training_pool"):
        assert content(holed, name).equals(content(whole, name))
