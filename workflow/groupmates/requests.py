"""What a job asks of the machine: as much again with every attempt, up to what the site allows."""

from __future__ import annotations

from collections.abc import Callable


def growing(amount: int, limit: int | None) -> Callable[..., int]:
    """`amount` for the first attempt, twice that for the second, and so on; at most `limit`.

    A job that ran out of memory or time is tried again with more. Past the limit of its partition a
    job would wait for ever instead of failing, so a site that has one names it in its profile.
    """

    def at(wildcards: object, attempt: int) -> int:
        return amount * attempt if limit is None else min(amount * attempt, limit)

    return at
