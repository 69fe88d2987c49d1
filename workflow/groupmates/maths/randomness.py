"""Random choices that depend on (run seed, purpose, item) and on nothing else.

No stage holds a stream of random numbers that a different number of shards or workers would cut
differently: an item's random number is a hash of the item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np


def hash64(seed: int, purpose: str, item: str) -> int:
    """A uniform 64-bit number for `item`; independent over seeds, purposes and items."""
    key = f"{seed}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(item.encode(), digest_size=8, key=key).digest(), "big")


def priorities(seed: int, purpose: str, items: Iterable[str]) -> np.ndarray:
    """`hash64` of every item, uint64 [N]; the n smallest are a uniform sample of n items."""
    return np.fromiter((hash64(seed, purpose, item) for item in items), np.uint64)


def uniforms(seed: int, purpose: str, items: Iterable[str]) -> np.ndarray:
    """`hash64` of every item as a number in [0, 1], float64 [N]."""
    return priorities(seed, purpose, items) / 2.0**64


def generator(seed: int, purpose: str, item: int | str = "") -> np.random.Generator:
    """A generator for the choices that belong to one item, such as a rollout."""
    return np.random.default_rng(hash64(seed, purpose, str(item)))
