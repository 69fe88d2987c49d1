"""Text to tokens of the probed language model, the same way wherever a document is looked at.

Importing transformers takes half a second, and AutoTokenizer imports torch, for two more: functions
import them when they make a tokenizer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from groupmates.artefacts import store
from groupmates.errors import UserError
from groupmates.progress import note

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"
ENDS_OF_DOCUMENTS = (
    END_OF_TEXT,
    "<|end_of_text|>",
)  # of pretraining; chat models end turns otherwise
PLAIN = ("TokenizersBackend", "PreTrainedTokenizerFast")  # classes that read tokenizer.json alone
BEGINNING = 16  # characters, which tell of nearly every text that it has a token
TOKENISED_TOGETHER = 1000  # texts; more at once only make more Python lists at once


def check_folder(folder: str | Path) -> None:
    """A path that does not exist would be asked of the Hugging Face hub as a name."""
    if not Path(folder).is_dir():
        if store.made_here(Path(folder)):
            raise store.damaged(Path(folder), "a folder", "none")
        raise UserError(
            expected="a folder",
            found="none",
            where=str(folder),
            todo="correct base.checkpoint, sample.tokenizer, materialise.tokenizer, core.models or "
            "fit.encoder.name: only the last may be a name on the Hugging Face hub",
        )


@contextmanager
def loading(folder: str | Path, expected: str, todo: str) -> Iterator[None]:
    """What fails inside is a folder that transformers cannot load."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        found = " ".join(str(error).split())[:400]
        if store.made_here(Path(folder)):
            raise store.damaged(Path(folder), expected, found) from error
        raise UserError(expected=expected, found=found, where=str(folder), todo=todo) from error


def load_tokenizer(folder: str | Path, needs_end: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder; a language model's has an end-of-text token.

    Without `needs_end`, as for an encoder, `folder` may be a name on the hub too.
    """
    if needs_end:
        check_folder(folder)
    todo = (
        "put the tokenizer's files, tokenizer.json among them, beside the weights of "
        "base.checkpoint, or set sample.tokenizer (or materialise.tokenizer) to such a folder"
    )
    with loading(folder, "a folder with a Hugging Face tokenizer", todo):
        reader = _reader(Path(folder))
        tokenizer: PreTrainedTokenizerBase = reader.from_pretrained(folder, trust_remote_code=False)
    if needs_end and tokenizer.eos_token_id is None:
        raise UserError(
            expected="a tokenizer with an end-of-text token",
            found="none",
            where=str(folder),
            todo="set eos_token in its tokenizer_config.json",
        )
    return tokenizer


def read_special_tokens(tokenizer: PreTrainedTokenizerBase, in_text: bool) -> None:
    """Whether a special token spelt in a text is that token; saved with the tokenizer.

    Without, "<|endoftext|>" on a page about tokenizers is no end of a document.
    """
    tokenizer.split_special_tokens = not in_text
    tokenizer.init_kwargs["split_special_tokens"] = not in_text


def end_documents_with(
    tokenizer: PreTrainedTokenizerBase, token: str | None, where: str | Path
) -> None:
    """Make `token` the end-of-text token, which is saved with the tokenizer. None leaves its own.

    A chat model's own may end a turn. Where the tokenizer also has a usual end of documents, that is
    told: after SmolLM2-135M-Instruct's `<|im_end|>` a document costs 0.9 nats a token more than after
    `<|endoftext|>`, over its first 32 tokens. `where` is for errors; a token that is not in the
    vocabulary raises `UserError`.
    """
    known = tokenizer.get_vocab()
    if token is None:
        usual = [end for end in ENDS_OF_DOCUMENTS if end in known]
        if usual and tokenizer.eos_token not in usual:
            told = f"documents end with {tokenizer.eos_token!r}, the tokenizer's eos_token"
            todo = f"where {usual[0]!r} ended them in pretraining, set sample.end_of_text to it"
            note("tokenizer", f"WARNING: {told}; {todo}")
    elif token in known:
        tokenizer.eos_token = token
    else:
        near = ", ".join(map(repr, tokenizer.all_special_tokens[:8])) or "none"
        raise UserError(
            expected=f"the token {token!r} in the vocabulary",
            found=f"none; special tokens are {near}",
            where=str(where),
            todo="correct sample.end_of_text, or set it to null for the tokenizer's own",
        )


def _reader(folder: Path) -> Any:
    """The class that reads a tokenizer: for one that `train_tokenizer` made, the one without torch."""
    known = folder / "tokenizer_config.json"
    plain = known.exists() and json.loads(known.read_text()).get("tokenizer_class") in PLAIN
    if plain and not (folder / "config.json").exists():  # no model, whose kind would matter too
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast
    from transformers import AutoTokenizer

    return AutoTokenizer


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: every text round-trips, no unknown token."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END_OF_TEXT)


def largest_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Ids may have gaps: their number, len(tokenizer), says nothing about the largest."""
    return max(tokenizer.get_vocab().values())


def tokenless(folder: Path) -> Callable[[list[str]], list[bool]]:
    """What says of texts whether they have no token, by the tokenizer in a folder.

    Only one without a fallback to bytes has such texts. Special tokens that are spelt in a text do
    not count, as by default. Whole texts are tokenised only where their beginning has no token.
    tokenizer.json is read without transformers. Measured with Pythia's tokenizer on one core: 24 us a
    text, whatever its length. To read and hash a document of 2,300 characters takes 7 us.
    """
    count = _counts(folder)

    def test(texts: list[str]) -> list[bool]:
        found = [n == 0 for n in count([text[:BEGINNING] for text in texts])]
        again = [i for i, empty in enumerate(found) if empty and len(texts[i]) > BEGINNING]
        for i, n in zip(again, count([texts[i] for i in again]), strict=True):
            found[i] = n == 0
        return found

    return test


def _counts(folder: Path) -> Callable[[list[str]], list[int]]:
    """What counts the tokens of texts."""
    check_folder(folder)
    file = Path(folder) / "tokenizer.json"
    if not file.exists():
        tokenizer = load_tokenizer(folder)
        read_special_tokens(tokenizer, in_text=False)
        return lambda texts: [len(ids) for ids in text_tokens(tokenizer, texts)]
    try:
        backend = Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers has no type of its own
        raise UserError(
            expected="the tokenizer.json of a Hugging Face tokenizer",
            found=f"a file that cannot be read ({error})"[:400],
            where=str(file),
            todo="copy the tokenizer's files again",
        ) from error
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = True
    encode = backend.encode_batch_fast
    return lambda texts: [len(e.ids) for e in encode(texts, add_special_tokens=False)]


def text_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int | None = None
) -> Iterator[list[int]]:
    """The first `limit` tokens of each text, without special tokens; in blocks of texts."""
    for start in range(0, len(texts), TOKENISED_TOGETHER):
        yield from _block_tokens(tokenizer, texts[start : start + TOKENISED_TOGETHER], limit)


def _block_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int | None
) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)  # of a fast tokenizer
    if backend is None:
        whole = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return [ids[:limit] for ids in whole]
    # 1.7 times as fast as the tokenizer's own call: no places in the text are kept. Measured with
    # Pythia's. Other threads of Python run meanwhile but for 1 % of the time.
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = tokenizer.split_special_tokens
    if limit is not None:
        backend.enable_truncation(limit)  # whatever the tokenizer's own side, the start is kept
    try:
        return [e.ids for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    finally:
        backend.no_truncation()  # it would be saved with the tokenizer


def document_tokens(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int | None = None
) -> list[np.ndarray]:
    """Tokens of each document as it stands in training: its text, then the end-of-text token.

    int32, no other special tokens; the first `limit` of them, end-of-text included. The probed
    sequence is the first sequence_length + 1.
    """
    end = tokenizer.eos_token_id
    return [np.array([*ids, end][:limit], np.int32) for ids in text_tokens(tokenizer, texts, limit)]


def reference_tokens(
    tokenizer: PreTrainedTokenizerBase, context: str, labelled: str, max_tokens: int
) -> tuple[np.ndarray, int]:
    """Tokens of a reference example, and the position of its first label.

    Context and labelled text are tokenised apart, so that no token lies on both sides. A text
    without context begins with the end-of-text token, as documents in training do, so that its
    first token is predicted too. Too long: the start of the context goes first, then the end of
    the labels.
    """
    before = tokenizer(context, add_special_tokens=False, verbose=False)["input_ids"]
    before = before or [tokenizer.eos_token_id]
    labels = tokenizer(labelled, add_special_tokens=False, verbose=False)["input_ids"]
    labels = labels[: max_tokens - 1]
    before = before[-(max_tokens - len(labels)) :]
    return np.array([*before, *labels], np.int32), len(before)


def token_lists(table: pa.Table) -> list[np.ndarray]:
    """The `input_ids` of a table, one int32 array per row (views, no Python lists)."""
    column = table["input_ids"].combine_chunks()
    flat, offsets = column.flatten().to_numpy(), column.offsets.to_numpy()
    return [flat[a:b] for a, b in zip(offsets[:-1], offsets[1:], strict=True)]
