"""Windows of 13 words that texts share with examples: exact, and fast.

A word is a run of letters, digits and marks, after NFKC and in lower case. All other characters part
words. Each window gets a 64-bit hash of its words. A bit field rejects nearly all windows of a text.
A sorted array rejects nearly all others. Of what is left, the words themselves are compared.

Axes: C characters of some texts behind each other, W their words, T texts, E windows of the examples.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

WINDOW = 13  # words, as in the decontamination of GPT-3 and of lm-evaluation-harness
BATCH = 1 << 16  # characters that are hashed at once: their arrays fit a core's cache
OF_WORD, OF_WINDOW = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # bases of the hashes: odd
PER_WORD, PER_WINDOW = (pow(base, -1, 1 << 64) for base in (OF_WORD, OF_WINDOW))  # their inverses
SPARSE = 32  # bits of the bit field for each window of the examples, at least
SPACE = ord(" ")


@dataclass(frozen=True)
class Shared:
    """13 words of the text of this number, counted from 0.

    `examples`: of each group that has these words, the number of its first example with them.
    """

    text: int
    words: list[str]
    examples: list[int]


def words(text: str) -> list[str]:
    """The words of a text."""
    letters_C = _tables()[0][_codes(unicodedata.normalize("NFKC", text))]
    return letters_C.tobytes().decode("utf-32-le").split()


class Windows:
    """The windows of all examples, to look up those of texts: 20 to 24 bytes a window."""

    def __init__(self, examples: Sequence[str], groups: Sequence[int]) -> None:
        """`examples`: words, joined by spaces. `groups`: a number for each, such as its task."""
        self._examples, self._groups = examples, np.asarray(groups, np.int32)
        parts, done = [], 0
        for batch in _batches(examples):
            parts.append(_of_examples(batch, done))
            done += len(batch)
        nothing = np.empty(0, np.uint64), np.empty(0, np.int32), np.empty(0, np.int32)
        hash_E, example_E, first_E = map(np.concatenate, zip(nothing, *parts, strict=True))
        order_E = np.argsort(hash_E, kind="stable")  # of equal hashes, the first example leads
        self._hash_E = hash_E[order_E]
        self._example_E, self._first_E = example_E[order_E], first_E[order_E]
        bits = max(16, (SPARSE * len(hash_E)).bit_length())
        self._shift = np.uint64(64 - bits)
        self._field = np.zeros(1 << (bits - 3), np.uint8)
        np.bitwise_or.at(self._field, *self._slots(self._hash_E))

    def __len__(self) -> int:
        return len(self._hash_E)

    def shared(self, texts: Iterable[str]) -> Iterator[Shared]:
        """Every window of the texts that an example has too, in the order of the texts."""
        done = 0
        for batch in _batches(unicodedata.normalize("NFKC", text) for text in texts):
            hash_W, word_T = _hashed(batch)
            byte_W, bit_W = self._slots(hash_W)
            maybe = np.flatnonzero(self._field[byte_W] & bit_W)
            start = np.searchsorted(self._hash_E, hash_W[maybe])
            alike = np.flatnonzero(self._hash_E.take(start, mode="clip") == hash_W[maybe])
            maybe, start = maybe[alike], start[alike]
            end = np.searchsorted(self._hash_E, hash_W[maybe], side="right")
            seen, known = -1, list[str]()
            for i in range(len(maybe)):
                text = int(np.searchsorted(word_T, maybe[i], side="right")) - 1
                if text != seen:
                    seen, known = text, words(batch[text])
                first = int(maybe[i] - word_T[text])
                here = known[first : first + WINDOW]
                if examples := self._having(here, int(start[i]), int(end[i])):
                    yield Shared(done + text, here, examples)
            done += len(batch)

    def _slots(self, hash_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Byte of the bit field, and bit in it, of each hash."""
        slot_N = hash_N >> self._shift
        return slot_N >> np.uint64(3), np.uint8(1) << (slot_N & np.uint64(7)).astype(np.uint8)

    def _having(self, here: list[str], start: int, end: int) -> list[int]:
        """Of each group, the first example with these words among the windows of equal hash."""
        example_E, first_E = self._example_E[start:end], self._first_E[start:end]
        found: dict[int, int] = {}
        for group in np.unique(self._groups[example_E]).tolist():
            for e in np.flatnonzero(self._groups[example_E] == group).tolist():
                first = int(first_E[e])
                if self._examples[example_E[e]].split()[first : first + WINDOW] == here:
                    found[group] = int(example_E[e])
                    break
        return list(found.values())


def _of_examples(batch: list[str], done: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hash, number of the example (`done` that of the first) and first word of each window."""
    hash_W, word_T = _hashed(batch)
    words_T = np.diff(word_T)
    text_W = np.repeat(np.arange(len(batch)), words_T)
    first_W = np.arange(len(text_W)) - word_T[text_W]
    whole = np.flatnonzero(first_W + WINDOW <= words_T[text_W])
    return hash_W[whole], (done + text_W[whole]).astype(np.int32), first_W[whole].astype(np.int32)


def _hashed(batch: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Hash of the 13 words from each word on, also across texts; first word of each text, and all.

    The hash of a word is the sum of code(c) · b^i over its characters, modulo 2^64. It comes from sums
    over all characters before: (S[end] - S[start]) · b^-start. Windows are hashed alike, over words.
    """
    code_C = _tables()[1][_codes(" " + " ".join(batch) + " ")]
    inside_C = code_C != 0
    edges = np.flatnonzero(inside_C[1:] != inside_C[:-1])
    start_W, end_W = edges[::2], edges[1::2]  # the character before the first, and the last one
    offset_T = np.cumsum([0, *(len(text) + 1 for text in batch)])
    word_T = np.searchsorted(start_W, offset_T)
    code_C *= _powers(OF_WORD, len(code_C))
    sum_C = np.cumsum(code_C, out=code_C)
    hash_W = (sum_C[end_W] - sum_C[start_W]) * _powers(PER_WORD, len(sum_C))[start_W]
    hash_W ^= hash_W >> np.uint64(32)
    before_W = np.zeros(len(hash_W) + 1, np.uint64)
    np.cumsum(hash_W * _powers(OF_WINDOW, len(hash_W)), out=before_W[1:])
    windows = max(len(hash_W) - WINDOW + 1, 0)
    hash_W = before_W[WINDOW:] - before_W[:windows]
    hash_W *= _powers(PER_WINDOW, windows)
    hash_W ^= hash_W >> np.uint64(29)
    return hash_W, word_T


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """The texts, about `BATCH` characters together."""
    batch, characters = list[str](), 0
    for text in texts:
        batch.append(text)
        characters += len(text)
        if characters >= BATCH:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _codes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """Of each character: its lower case, or a space where it parts words; a 64-bit code, or 0 there."""
    letter = np.full(0x110000, SPACE, np.uint32)
    for code in range(len(letter)):
        character = chr(code)
        if unicodedata.category(character)[0] in "LNM":
            letter[code] = ord(character.lower()[0])
    mixed = letter.astype(np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # of splitmix64
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed |= np.uint64(1)
    return letter, np.where(letter == SPACE, np.uint64(0), mixed)


def _powers(base: int, count: int) -> np.ndarray:
    """base^0, base^1, … modulo 2^64."""
    kept = _first_powers(base)
    return kept[:count] if count <= len(kept) else _computed(base, count)


@cache
def _first_powers(base: int) -> np.ndarray:
    return _computed(base, 4 * BATCH)


def _computed(base: int, count: int) -> np.ndarray:
    factors = np.full(count, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)
