"""Windows that texts share with examples: as a function without arrays finds them."""

from __future__ import annotations

import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from groupmates.maths import word_windows
from groupmates.maths.word_windows import WINDOW, Windows, words


def plain_words(text: str) -> list[str]:
    kept = [
        character.lower()[0] if unicodedata.category(character)[0] in "LNM" else " "
        for character in unicodedata.normalize("NFKC", text)
    ]
    return "".join(kept).split()


def plain_shared(texts: list[str], examples: list[list[str]], groups: list[int]) -> list[tuple]:
    """(text, words, examples) of every shared window."""
    found = []
    for number, known in enumerate(map(plain_words, texts)):
        for first in range(len(known) - WINDOW + 1):
            here = known[first : first + WINDOW]
            having = [
                e
                for e, example in enumerate(examples)
                if any(here == example[i : i + WINDOW] for i in range(len(example) - WINDOW + 1))
            ]
            firsts = {groups[e]: e for e in reversed(having)}
            if firsts:
                found.append((number, here, sorted(firsts.values())))
    return found


def shared(texts: list[str], examples: list[list[str]], groups: list[int]) -> list[tuple]:
    windows = Windows([" ".join(example) for example in examples], groups)
    return [(s.text, s.words, sorted(s.examples)) for s in windows.shared(texts)]


@settings(deadline=None)
@given(st.text())
def test_words_are_runs_of_letters_digits_and_marks(text):
    assert words(text) == plain_words(text)


def test_words_by_hand():
    said = "Don\u2019t stop: the ﬁrst U.S. café_bar (cafe\u0301) cost 12½\u00a0€ … Ｏｋ हिन्दी"
    expected = "don t stop the first u s café bar café cost 121 2 ok हिन्दी"
    assert words(said) == expected.split()


# Few words, so that windows are shared; separators and cases that a normalisation must see through.
WORD = st.sampled_from(["a", "B", "é", "e\u0301", "ﬁ", "7", "हि", "İ", "字"])
TEXT = st.lists(st.tuples(WORD, st.sampled_from([" ", "-", "\n\n", "\u2014", "_"])), max_size=40)
TEXTS = st.lists(TEXT.map(lambda pairs: "".join(map("".join, pairs))), min_size=1, max_size=6)


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS, st.booleans())
def test_exactly_the_windows_are_found_that_a_plain_search_finds(texts, sources, hashes_collide):
    examples = [plain_words(text) for text in [*sources, texts[0]]]
    groups = [i % 2 for i in range(len(examples))]
    whole = word_windows._hashed
    try:
        if hashes_collide:  # then the words alone tell windows apart
            word_windows._hashed = lambda batch: (whole(batch)[0] & 1, whole(batch)[1])
        assert shared(texts, examples, groups) == plain_shared(texts, examples, groups)
    finally:
        word_windows._hashed = whole


def test_a_window_does_not_run_on_into_the_next_text():
    example = [f"w{i}" for i in range(20)]
    halves = [" ".join(example[:10]), " ".join(example[10:])]
    assert shared(halves, [example], [0]) == []
    assert len(shared([" ".join(halves)], [example], [0])) == 8


def test_a_text_longer_than_a_batch_is_searched_to_its_end():
    example = [f"w{i}" for i in range(WINDOW)]
    text = "lorem ipsum " * word_windows.BATCH + " ".join(example)
    assert shared(["", text], [example], [0]) == [(1, example, [0])]
