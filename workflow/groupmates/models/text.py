"""Text to tokens of the probed language model, the same way wherever a document is looked at."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from groupmates.errors import UserError

END_OF_TEXT = "<|endoftext|>"


def load_tokenizer(folder: str | Path, needs_end: bool = True) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face folder; a language model's has an end-of-text token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise UserError(
            expected="a folder with a Hugging Face tokenizer",
            found=str(error).splitlines()[0],
            where=str(folder),
            todo="set sample.tokenizer to such a folder, or to null for one trained on the pool",
        ) from error
    if needs_end and tokenizer.eos_token_id is None:
        raise UserError(
            expected="a tokenizer with an end-of-text token",
            found="none",
            where=str(folder),
            todo="set eos_token in its tokenizer_config.json",
        )
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: every text round-trips, no unknown token."""
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


def document_tokens(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[np.ndarray]:
    """Tokens of each document as it stands in training: its text, then the end-of-text token.

    int32, no other special tokens. The probed sequence is the first sequence_length + 1 of them.
    """
    ids = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    return [np.array([*i, tokenizer.eos_token_id], np.int32) for i in ids]


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
