"""Text to tokens: the end-of-text token, labels apart from their context, and views that hold."""

import json

import numpy as np
import pyarrow as pa
import pytest
import transformers

import small
import waiting
from groupmates.errors import UserError
from groupmates.models import tokenizer as text
from groupmates.models.tokenizer import (
    document_tokens,
    load_tokenizer,
    read_special_tokens,
    reference_tokens,
    token_lists,
    train_tokenizer,
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([" ".join(small.WORDS)] * 3, 300)


@pytest.mark.parametrize("text", ["a river", "", "Grüße, 世界 🌍", " two  spaces\n\tand a line "])
def test_every_text_comes_back_from_its_tokens(tokenizer, text):
    (ids,) = document_tokens(tokenizer, [text])
    assert ids.dtype == np.int32
    assert ids[-1] == tokenizer.eos_token_id
    assert tokenizer.decode(ids[:-1]) == text


@pytest.mark.parametrize(
    ("context", "limit", "before"), [(6, 10, 6), (9, 10, 7), (0, 10, 1), (9, 4, 1), (9, 3, 1)]
)
def test_too_long_examples_lose_context_first_then_labels(tokenizer, context, limit, before):
    letters = "QRSTUVWXYZ"[:context]  # in no word that was trained on: a token each
    ids, start = reference_tokens(tokenizer, letters, "abc", limit)
    assert start == before
    kept = letters[-before:] if context else tokenizer.eos_token
    assert tokenizer.decode(ids[:start]) == kept
    assert len(ids) == min(limit, before + 3)
    assert tokenizer.decode(ids[start:]) == "abc"[: limit - 1]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_limit_keeps_the_first_tokens_and_is_forgotten_afterwards(tokenizer, monkeypatch, side):
    monkeypatch.setattr(tokenizer, "truncation_side", side)
    monkeypatch.setattr(text, "TOKENISED_TOGETHER", 2)  # three blocks
    texts = [" ".join(small.WORDS[:n]) for n in (1, 30, 0, 3, 12)]
    saved = tokenizer.backend_tokenizer.to_str()
    whole = [[*tokenizer(t)["input_ids"], tokenizer.eos_token_id] for t in texts]
    for limit in (1, 2, 4, len(whole[3]) - 1, len(whole[3]), 1000):
        found = document_tokens(tokenizer, texts, limit)
        assert [ids.tolist() for ids in found] == [ids[:limit] for ids in whole]
        assert {ids.dtype for ids in found} == {np.dtype(np.int32)}
        assert tokenizer.backend_tokenizer.to_str() == saved  # as it would be saved
    assert tokenizer.truncation_side == side
    assert [ids.tolist() for ids in document_tokens(tokenizer, texts)] == whole
    assert tokenizer(texts[1])["input_ids"] == whole[1][:-1]


def test_tokens_are_those_of_the_tokenizer_s_own_call_whatever_was_asked_of_it_before(tokenizer):
    texts = ["a river", "the<|endoftext|>old", "", "Grüße, 世界 🌍"]
    ours = [[*ids, tokenizer.eos_token_id] for ids in tokenizer(texts)["input_ids"]]
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=9)
    assert [ids.tolist() for ids in document_tokens(tokenizer, texts)] == ours
    assert ours[1].count(tokenizer.eos_token_id) == 2


@pytest.mark.parametrize("limit", [None, 100])
def test_a_spelt_end_of_text_ends_no_document_unless_it_is_asked_for(tokenizer, limit, tmp_path):
    """A page about tokenizers had a false document boundary wherever it spelt the token."""
    tokenizer.save_pretrained(tmp_path)
    own, end = load_tokenizer(tmp_path), tokenizer.eos_token_id
    for in_text in (False, True, False):
        read_special_tokens(own, in_text)
        (ids,) = document_tokens(own, ["QRS<|endoftext|>TUV"], limit)
        assert own.decode(ids) == "QRS<|endoftext|>TUV<|endoftext|>"
        found = [place for place, token in enumerate(ids) if token == end]
        assert found == ([3, len(ids) - 1] if in_text else [len(ids) - 1])


def test_no_more_is_tokenised_together_than_a_block(tokenizer):
    class Counting:
        truncation_side, eos_token_id, calls = "right", 0, []

        def __call__(self, texts, **options):
            self.calls.append(len(texts))
            return tokenizer(texts, **options)

    assert len(document_tokens(Counting(), ["a"] * 2001)) == 2001
    assert Counting.calls == [1000, 1000, 1]
    assert document_tokens(Counting(), []) == []


def test_tokens_of_a_slice_are_those_of_its_rows():
    rows = [[1, 2], [3], [4, 5, 6], [7]]
    table = pa.table({"input_ids": pa.array(rows, pa.list_(pa.int32()))})
    assert [ids.tolist() for ids in token_lists(table)] == rows
    assert [ids.tolist() for ids in token_lists(table.slice(1, 2))] == rows[1:3]
    chunks = pa.concat_tables([table.slice(2), table.slice(0, 1)])
    assert [ids.tolist() for ids in token_lists(chunks)] == [[4, 5, 6], [7], [1, 2]]
    assert token_lists(table.slice(4)) == []


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"sample\.tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path)


def test_one_of_our_own_is_read_without_torch_and_as_transformers_reads_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "own")
    code = (
        "import sys; from groupmates.models.tokenizer import load_tokenizer\n"
        "load_tokenizer(sys.argv[1]).save_pretrained(sys.argv[2])\n"
        "assert 'torch' not in sys.modules"
    )
    folders = [str(tmp_path / name) for name in ("own", "read")]
    done = waiting.python("-c", code, *folders)
    assert done.returncode == 0, done.stderr
    transformers.AutoTokenizer.from_pretrained(folders[0]).save_pretrained(tmp_path / "auto")
    for file in (tmp_path / "read").iterdir():
        assert file.read_bytes() == (tmp_path / "auto" / file.name).read_bytes()


def test_only_an_encoders_tokenizer_is_asked_of_the_hub(tokenizer, monkeypatch):
    asked = []
    monkeypatch.setattr(
        transformers.AutoTokenizer,
        "from_pretrained",
        lambda name, **_: asked.append(name) or tokenizer,
    )
    with pytest.raises(UserError, match=r"sample\.tokenizer") as caught:
        load_tokenizer("BAAI/typo")
    assert (caught.value.expected, caught.value.found) == ("a folder", "none")
    assert (caught.value.where, asked) == ("BAAI/typo", [])
    assert load_tokenizer("BAAI/bge-base-en-v1.5", needs_end=False) is tokenizer
    assert asked == ["BAAI/bge-base-en-v1.5"]


def test_a_language_models_tokenizer_needs_an_end_of_text_token(tokenizer, tmp_path):
    bare = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    bare.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="end-of-text"):
        load_tokenizer(tmp_path)
    assert load_tokenizer(tmp_path, needs_end=False).eos_token_id is None


def test_code_of_a_tokenizer_s_own_is_never_run(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    told = json.loads((tmp_path / "tokenizer_config.json").read_text())
    told |= {"auto_map": {"AutoTokenizer": ["code.Own", None]}, "tokenizer_class": "Own"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(told))
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "code.py").write_text("raise AssertionError('code of the tokenizer was run')")
    with pytest.raises(UserError, match=r"sample\.tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path)
