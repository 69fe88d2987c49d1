"""The reference set: its labels, and two parts without overlap."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import small
from groupmates.artefacts.store import read_table
from groupmates.errors import UserError
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import (
    load_tokenizer,
    read_special_tokens,
    reference_tokens,
    token_lists,
)
from groupmates.stages import reference


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


# Contexts and continuations as they are joined

LAMBADA = [{"context": f"{w} had never been", "continuation": "searched"} for w in small.WORDS]


def test_a_word_after_a_context_without_white_space_is_a_word_of_its_own(
    small_run, tmp_path, capsys
):
    found = texts(small_run, referenced(small_run, tmp_path, LAMBADA))
    assert {label for _, label in found} == {" searched"}
    assert {before for before, _ in found} <= {row["context"] for row in LAMBADA}
    told = f"{len(LAMBADA)} joined with reference.delimiter, ' '"
    assert told in capsys.readouterr().err


def test_the_delimiter_stands_in_a_text_whose_loss_is_that_of_all(small_run, tmp_path):
    table = referenced(small_run, tmp_path, LAMBADA, loss_on="all", max_tokens=200)
    assert {label for _, label in texts(small_run, table)} <= {
        f"{row['context']} searched" for row in LAMBADA
    }


def test_the_log_counts_what_was_joined_in_which_way(small_run, tmp_path, capsys):
    rows = [
        *LAMBADA[:3],
        *({"context": "a river", "continuation": f" {w}"} for w in small.WORDS[:4]),
        *({"text": f"{w} alone"} for w in small.WORDS[:5]),
    ]
    referenced(small_run, tmp_path, rows, delimiter="")
    told = capsys.readouterr().err
    assert f"[reference] {tmp_path / 'reference.jsonl'}: 5 without context, " in told
    assert "4 with white space between context and continuation, " in told
    assert "3 joined as they stand, without white space" in told


def test_a_table_is_a_reference_file_too(small_run, tmp_path):
    rows = [{"prompt": r["context"], "response": r["continuation"]} for r in LAMBADA]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "reference.parquet")
    reference.run(
        small.reference_settings(),
        reference=[str(tmp_path / "reference.parquet")],
        tokenizer=small_run.tokenizer,
        output=tmp_path / "out.parquet",
    )
    table = read_table(tmp_path / "out.parquet", "reference")
    assert table.equals(referenced(small_run, tmp_path / "lines", LAMBADA))


def word_tokenizer(folder: Path) -> Path:
    """A tokenizer of letters that knows a to z alone, and drops what it does not know."""
    letters = {"<|endoftext|>": 0} | {chr(ord("a") + i): i + 1 for i in range(26)}
    model = Tokenizer(models.BPE(letters, []))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=model, eos_token="<|endoftext|>")
    made.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("split", [True, False])
def test_the_first_three_places_without_a_token_are_told_and_how_many_there_are(tmp_path, split):
    """They were told one by one, each at a start of its own."""
    rows = [{"text": c} for c in ("a", "世", "b", "界", "c", "日", "d", "本", "e")]
    path = str(small.write_lines(tmp_path / "reference.jsonl", rows))
    other = str(small.write_lines(tmp_path / "other.jsonl", [{"text": "f"}, {"text": "語"}]))
    with pytest.raises(UserError, match="a token to predict") as caught:
        reference.run(
            small.reference_settings(),
            reference=[path, other] if split else [path],
            evaluation=None if split else [other],
            tokenizer=word_tokenizer(tmp_path / "tokenizer"),
            output=tmp_path / "out.parquet",
        )
    assert caught.value.where == "; ".join(f"{path}, line {line}" for line in (2, 4, 6))
    assert caught.value.found.endswith("none in 5; the tokenizer knows no character of '世'")


@pytest.mark.parametrize("loss_on", ["continuation", "all"])
def test_a_continuation_without_a_token_is_refused_with_its_line(tmp_path, loss_on):
    rows = [{"context": "a b", "continuation": " c"}, {"context": "世", "continuation": " 世界"}]
    paths = [str(small.write_lines(tmp_path / "reference.jsonl", rows))]
    with pytest.raises(UserError, match="a token to predict") as caught:
        reference.run(
            small.reference_settings(loss_on=loss_on),
            reference=paths,
            evaluation=[str(small.write_lines(tmp_path / "other.jsonl", [{"text": "d"}]))],
            tokenizer=word_tokenizer(tmp_path / "tokenizer"),
            output=tmp_path / "out.parquet",
        )
    assert caught.value.where == f"{paths[0]}, line 2"
    assert "none in 1; " in caught.value.found and "世界" in caught.value.found
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize("in_text", [False, True])
def test_a_spelt_end_of_text_is_text_in_an_example_too(small_run, tmp_path, in_text):
    tokenizer = load_tokenizer(small_run.tokenizer)
    read_special_tokens(tokenizer, in_text)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    ids = reference_tokens(tokenizer, "a<|endoftext|>", " b<|endoftext|>", 100)[0]
    assert ids.tolist().count(tokenizer.eos_token_id) == 2 * in_text
