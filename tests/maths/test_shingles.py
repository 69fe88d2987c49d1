"""Near-duplicates by words: made ones are found, others are not, and exact counts agree."""

import numpy as np
import pytest

from groupmates.maths import shingles
from groupmates.maths.shingles import Signatures, repeated


def words(count: int, seed: int = 0) -> list[str]:
    return [f"w{i}" for i in np.random.default_rng(seed).integers(0, 10**6, count)]


def changed(text: list[str], places: int) -> list[str]:
    """The same words but for some, far from each other: each takes five shingles."""
    other = list(text)
    for place in range(places):
        other[10 + 20 * place] = f"other{place}"
    return other


def found(texts: list[str], member_MD=None) -> list[list[bool]]:
    make = Signatures()
    member_MD = np.ones((1, len(texts)), bool) if member_MD is None else np.array(member_MD, bool)
    return repeated([make.of(text) for text in texts], member_MD).tolist()


def test_shingles_by_hand():
    assert shingles.shingles("The cat, the dog; THE cat sat!") == {
        b"the cat the dog the",
        b"cat the dog the cat",
        b"the dog the cat sat",
    }
    assert shingles.shingles("Two words") == {b"two words"}
    assert shingles.shingles(" … ") == set()


def test_a_copy_with_few_words_changed_is_a_near_duplicate_and_one_with_many_is_not():
    text = words(404)  # 400 shingles
    near, far = (
        changed(text, 4),
        changed(text, 20),
    )  # 380 / 420 = 0.90 and 300 / 500 = 0.6 in common
    assert found([" ".join(t) for t in (text, near, far, words(404, seed=1))]) == [
        [False, True, False, False]
    ]


def test_case_and_punctuation_make_no_difference():
    assert found(["One, two; three four. Five six!", "one two THREE four five — six"]) == [
        [False, True]
    ]


def test_only_members_of_the_same_group_before_it_count():
    copies = [" ".join(words(50))] * 3
    member_MD = [[1, 0, 1], [0, 1, 0], [0, 1, 1], [1, 1, 1]]
    assert found(copies, member_MD) == [
        [False, False, True],
        [False, False, False],
        [False, False, True],
        [False, True, True],
    ]


def test_texts_without_words_are_like_no_other():
    assert found(["", " ", "…", "a word"]) == [[False] * 4]


def test_a_short_text_is_a_duplicate_of_the_same_words_alone():
    assert found(["two words", "two words", "two other words"]) == [[False, True, False]]


@pytest.mark.parametrize("seed", range(3))
def test_clear_cases_are_those_of_the_exact_similarity(seed):
    """Pairs at least 0.9 alike or less than 0.7: in between it is an estimate."""
    random = np.random.default_rng(seed)
    texts = []
    for group in range(12):
        text = words(304, seed=1000 * seed + group)
        texts += [" ".join(changed(text, int(n))) for n in random.choice([0, 1, 2, 14, 15], 5)]
    sets = [shingles.shingles(text) for text in texts]
    expected = []
    for i, mine in enumerate(sets):
        alike = [len(mine & other) / len(mine | other) for other in sets[:i]]
        assert not any(0.7 <= s < 0.9 for s in alike)
        expected.append(any(s >= 0.9 for s in alike))
    assert found(texts) == [expected]
    assert any(expected) and not all(expected)


def test_a_signature_is_always_the_same_in_pieces_and_at_once(monkeypatch):
    text = " ".join(words(500))
    whole = Signatures().of(text)
    monkeypatch.setattr(shingles, "AT_ONCE", 7)
    assert Signatures().of(text).tolist() == whole.tolist()
    assert whole.dtype == np.uint32 and len(whole) == shingles.PERMUTATIONS
