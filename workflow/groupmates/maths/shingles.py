"""Near-duplicates among texts, word by word: Jaccard similarity of their sets of 5-grams, by MinHash.

Candidates share a band of their signatures (locality-sensitive hashing); of them those stay whose
estimated similarity reaches the threshold.

Legend: D documents, M groups of documents, P permutations.
"""

from __future__ import annotations

import re
from itertools import islice
from zlib import crc32

import numpy as np
from datasketch import MinHash, MinHashLSH

WORDS = 5  # of a shingle
JACCARD = 0.8  # from which on two texts are near-duplicates
# At the threshold 1 - (1 - 0.8^8)^16 = 95 % of pairs share a band, at 0.9 all but 1 in 10,000. The
# estimate of a similarity of 0.8 has a standard deviation of sqrt(0.8 * 0.2 / 128) = 0.035.
BANDS, ROWS = 16, 8
PERMUTATIONS = BANDS * ROWS
AT_ONCE = 8192  # shingles of a long document: 4 MB of permuted hashes

WORD = re.compile(r"\w+")


def shingles(text: str) -> set[bytes]:
    """The runs of WORDS words, in lower case; of a shorter text all its words, of none nothing."""
    words = WORD.findall(text.lower())
    if not words:
        return set()
    last = max(1, len(words) - WORDS + 1)
    return {" ".join(words[i : i + WORDS]).encode() for i in range(last)}


class Signatures:
    """Makes the MinHash signatures of texts, always with the same permutations."""

    def __init__(self) -> None:
        # A checksum will do: MinHash mixes its bits. The default, SHA-1, takes most of the time.
        self._empty = MinHash(PERMUTATIONS, seed=1, hashfunc=crc32)

    def of(self, text: str) -> np.ndarray | None:
        """uint32 [P]; None of a text without words."""
        found = self._empty.copy()
        each = iter(shingles(text))
        while some := list(islice(each, AT_ONCE)):
            found.update_batch(some)
        return None if found.is_empty() else found.hashvalues

    def as_minhash(self, values_P: np.ndarray) -> MinHash:
        return MinHash(
            hashvalues=values_P, permutations=self._empty.permutations, scheme=self._empty.scheme
        )


def repeated(signatures: list[np.ndarray | None], member_MD: np.ndarray) -> np.ndarray:
    """bool [M, D]: a member of the group that has a near-duplicate among its members before it.

    `signatures`: of the documents in their order; one without words is like no other.
    """
    found_MD = np.zeros(member_MD.shape, bool)
    make, index = Signatures(), MinHashLSH(num_perm=PERMUTATIONS, params=(BANDS, ROWS))
    known_DP = np.zeros((len(signatures), PERMUTATIONS), np.uint32)
    for number, values_P in enumerate(signatures):
        if values_P is None:
            continue
        known_DP[number] = values_P
        minhash = make.as_minhash(values_P)
        before = np.array(sorted(index.query(minhash)), np.int64)
        if len(before):
            similarity = (known_DP[before] == values_P).mean(1)
            near = before[similarity >= JACCARD]
            found_MD[:, number] = member_MD[:, number] & member_MD[:, near].any(1)
        index.insert(number, minhash)
    return found_MD
