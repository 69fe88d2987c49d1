"""The sample depends on the documents alone; the reference set has two parts without overlap."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import load_tokenizer, token_lists
from groupmates.stages import reference, sample

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


# Sampling


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


# The reference set


def referenced(run, folder, rows=None, evaluation=None, **changed) -> pa.Table:
    rows = small.reference_examples() if rows is None else rows
    paths = [str(small.write_lines(folder / "reference.jsonl", rows))]
    if evaluation is not None:
        evaluation = [str(small.write_lines(folder / "evaluation.jsonl", evaluation))]
    reference.run(
        small.reference_settings(**changed),
        reference=paths,
        evaluation=evaluation,
        tokenizer=run.tokenizer,
        output=folder / "out.parquet",
    )
    return read_table(folder / "out.parquet", "reference")


def texts(run, table: pa.Table) -> list[tuple[str, str]]:
    """What stands before the labels, and the labels, decoded."""
    tokenizer = load_tokenizer(run.tokenizer)
    starts = table["label_start"].to_pylist()
    return [
        (tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:]))
        for ids, start in zip(token_lists(table), starts, strict=True)
    ]


def test_labels_are_the_continuation_and_nothing_else(small_run, tmp_path):
    table = referenced(small_run, tmp_path, max_tokens=200)
    written = {(r["context"], r["continuation"]) for r in small.reference_examples()}
    assert set(texts(small_run, table)) <= written
    assert len(table) > 6


def test_loss_on_all_makes_the_context_a_label_too(small_run, tmp_path):
    table = referenced(small_run, tmp_path, max_tokens=200, loss_on="all")
    written = {
        ("<|endoftext|>", r["context"] + r["continuation"]) for r in small.reference_examples()
    }
    assert set(texts(small_run, table)) <= written
    assert set(table["label_start"].to_pylist()) == {1}


def test_a_text_without_context_begins_with_the_end_of_text_token(small_run, tmp_path):
    rows = [{"text": f"{w} and {i}"} for i, w in enumerate(small.WORDS)]
    found = texts(small_run, referenced(small_run, tmp_path, rows))
    assert {before for before, _ in found} == {"<|endoftext|>"}
    assert {label for _, label in found} <= {r["text"] for r in rows}


def test_long_examples_lose_the_start_of_the_context_first(small_run, tmp_path):
    long = " ".join(small.WORDS * 3)
    rows = [{"context": f"{i} {long}", "continuation": " the end"} for i in range(8)]
    table = referenced(small_run, tmp_path, rows)
    assert {len(ids) for ids in token_lists(table)} == {small.SEQUENCE}
    for before, label in texts(small_run, table):
        assert label == " the end"
        assert long.endswith(before)


def test_parts_are_split_by_the_example_and_not_by_its_place(small_run, tmp_path):
    rows = small.reference_examples()
    table = referenced(small_run, tmp_path / "a", rows)
    again = referenced(small_run, tmp_path / "b", [*rows[::-1], rows[0]])
    assert table.equals(again)
    assert len(set(table["example_id"].to_pylist())) == len(table) == 16
    assert set(table["split"].to_pylist()) == {"selection", "evaluation"}


def test_each_part_gives_at_most_the_examples_that_are_wanted(small_run, tmp_path):
    rows = [{"text": f"{i} {w}"} for i, w in enumerate(small.WORDS)]
    referenced(small_run, tmp_path, rows)
    path = next(tmp_path.rglob("*.parquet"))
    every = reference_part(path, "selection", 10**6)[1]
    few = reference_part(path, "selection", 2)[1]
    assert len(few) == 2 < len(every)
    assert set(few) < set(every)
    assert len(reference_part(path, "evaluation", 3)[1]) == 3


def test_files_for_evaluation_replace_the_split_by_hash(small_run, tmp_path):
    rows = small.reference_examples()
    table = referenced(small_run, tmp_path, rows[:10], rows[10:])
    assert sorted(table["split"].to_pylist()) == ["evaluation"] * 6 + ["selection"] * 10
    written = {(r["context"], r["continuation"]) for r in rows[10:]}
    evaluation = table.filter(pc.equal(table["split"], "evaluation"))
    for before, label in texts(small_run, evaluation):
        assert any(context.endswith(before) and c == label for context, c in written)


def test_an_example_on_both_sides_is_refused(small_run, tmp_path):
    rows = small.reference_examples()
    with pytest.raises(UserError, match="without common examples") as caught:
        referenced(small_run, tmp_path, rows[:10], rows[9:])
    assert caught.value.found.startswith("1 examples in both")
    assert rows[9]["continuation"] in caught.value.found


def test_a_text_that_is_parted_differently_is_the_same_text_in_both_halves(small_run, tmp_path):
    rows = small.reference_examples()
    whole = [{"text": r["context"] + r["continuation"]} for r in rows]
    with pytest.raises(UserError, match="without common examples") as caught:
        referenced(small_run, tmp_path / "files", rows[:10], whole[9:])
    assert whole[9]["text"] in caught.value.found
    table = referenced(small_run, tmp_path / "split", rows + whole, max_tokens=200, loss_on="all")
    halves = {
        name: {label for _, label in texts(small_run, table.filter(pc.equal(table["split"], name)))}
        for name in ("selection", "evaluation")
    }
    assert halves["selection"]
    assert halves["evaluation"]
    assert not halves["selection"] & halves["evaluation"]


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_a_part_without_examples_is_refused(small_run, tmp_path, share):
    part = "evaluation" if share < 0.5 else "selection"
    with pytest.raises(UserError, match=f"example in the {part} part") as caught:
        referenced(small_run, tmp_path, evaluation_share=share)
    assert "evaluation_share" in caught.value.todo


def test_a_missing_reference_file_is_named_before_it_is_digested(small_run, tmp_path):
    """It ended in a traceback."""
    with pytest.raises(UserError) as caught:
        reference.run(
            small.reference_settings(),
            reference=[str(tmp_path / "none.jsonl")],
            tokenizer=small_run.tokenizer,
            output=tmp_path / "out.parquet",
        )
    assert caught.value.where == str(tmp_path / "none.jsonl")
