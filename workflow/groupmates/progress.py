"""Progress of a stage: one line every few seconds with count, rate and time left.

The log gets a line a minute. The terminal, where there is one, gets all.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_LOGGED = 60.0
STARTED: list[Progress] = []  # of this process, in order: the phases of its job


class Progress:
    """Prints `[label] done/total unit · rate · time left` to standard error.

    `advance(n)` after every piece of work; `note` for a remark of the stage. `resumed` is what an
    earlier attempt had done already: it counts as done, and not into the rate. `more` makes further
    words of the rate, units a second, for the end of a line.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        resumed: int = 0,
        more: Callable[[float], str] = lambda rate: "",
    ) -> None:
        self._more = more
        self.label, self.total, self.unit = label, total, unit
        self.done = self.resumed = resumed
        self._start = self._last = self._moved = time.monotonic()
        self._logged = self._start - SECONDS_BETWEEN_LOGGED  # the first line is
        STARTED.append(self)
        if resumed:
            note(label, f"goes on after {resumed:,} of {total:,} {unit}")

    def advance(self, n: int = 1) -> None:
        self.done += n
        now = self._moved = time.monotonic()
        last = self.done == self.total  # `finish` tells it
        if not last and now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            passing = now - self._logged < SECONDS_BETWEEN_LOGGED
            self._logged = self._logged if passing else now
            self._print(now, passing)

    def finish(self) -> None:
        self._print(time.monotonic(), passing=False)

    def over(self, items: Iterable[T]) -> Iterator[T]:
        """Yield `items`, advancing by one after each; prints the last line at the end."""
        for item in items:
            yield item
            self.advance()
        self.finish()

    def record(self) -> dict[str, Any]:
        """How far it is, for the record of the job; `seconds` until the last piece of work."""
        return {
            "label": self.label,
            "unit": self.unit,
            "done": self.done,
            "total": self.total,
            "resumed": self.resumed,
            "seconds": self._moved - self._start,
        }

    def _print(self, now: float, passing: bool) -> None:
        seconds = max(now - self._start, 1e-9)
        rate = (self.done - self.resumed) / seconds
        left = (self.total - self.done) / rate if rate and self.done <= self.total else 0.0
        of = f"/{self.total:,}" if self.total else ""
        tail = f"{left:,.0f} s left" if self.done < self.total else f"{seconds:,.1f} s"
        line = f"{self.done:,}{of} {self.unit} · {rate:,.1f}/s · {tail}{self._more(rate)}"
        note(self.label, line, passing)


def note(label: str, message: str, passing: bool = False) -> None:
    """One line of a stage's log, to standard error; a passing one is for the terminal alone."""
    stream = getattr(sys.stderr, "terminal", sys.stderr) if passing else sys.stderr
    if stream is not None:
        print(f"[{label}] {message}", file=stream, flush=True)
