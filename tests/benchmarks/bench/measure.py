"""Measuring two implementations on the same input: cost, growth, peak of memory, agreement.

Costs are CPU seconds of the process, so that other processes on the machine hardly matter.
"""

from __future__ import annotations

import ctypes
import gc
import os
import resource
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class Pair:
    """Two calls on one input. `agreement`: whether the results are equal enough, and how equal."""

    ours: Callable[[], Any]
    plain: Callable[[], Any] | None
    agreement: Callable[[Any, Any], tuple[bool, str]]


@dataclass(frozen=True)
class Case:
    """A stage at several sizes; `build` makes the input of one in a folder of its own.

    `asked` are the ratios to reach, by size. `repeats` are interleaved: ours, plain, ours, ...
    """

    stage: str
    unit: str
    sizes: tuple[int, ...]
    build: Callable[[int, Path], Pair]
    asked: dict[int, float] = field(default_factory=dict)
    repeats: int = 5


@dataclass
class Row:
    """What was measured at one size: seconds, and above the input's memory the peak in MB."""

    case: Case
    size: int
    ours: float
    plain: float | None
    agreement: str
    agrees: bool
    peak_ours: float | None = None
    peak_plain: float | None = None

    @property
    def ratio(self) -> float | None:
        return None if self.plain is None else self.plain / self.ours


def measure(case: Case, folder: Path, repeats: int) -> list[Row]:
    """Rows of a case, by size; peaks of memory at the largest size, where there are two sides."""
    rows = []
    for size in case.sizes:
        here = folder / f"{size}"
        here.mkdir(parents=True)
        pair = case.build(size, here)
        peaks: list[float | None] = [None, None]
        if size == max(case.sizes) and pair.plain is not None:
            peaks = [peak(pair.ours), peak(pair.plain)]
        ours, plain, agrees, told = [], [], True, "–"
        for repeat in range(repeats):
            took, found = seconds(pair.ours)
            ours.append(took)
            if pair.plain is None:
                continue
            took, expected = seconds(pair.plain)
            plain.append(took)
            if repeat == 0:
                agrees, told = pair.agreement(found, expected)
        middle = statistics.median(plain) if plain else None
        rows.append(Row(case, size, statistics.median(ours), middle, told, agrees, *peaks))
    return rows


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of a call, and what it returns."""
    gc.collect()
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


def peak(work: Callable[[], Any]) -> float:
    """MB by which a call raises the resident memory of a forked child at its highest (ru_maxrss)."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)  # else the call finds memory that nobody has given back
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            work()
            after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            os.write(write, f"{after - before}".encode())
            status = 0
        except BaseException:  # the child ends here, whatever happens
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as told:
        kilobytes = told.read()
    os.waitpid(child, 0)
    assert kilobytes, "the child has failed; its error stands above"
    return int(kilobytes) * 1024 / 1e6


def growth(sizes: list[int], costs: list[float]) -> float:
    """Exponent e of cost = c * size**e, by least squares of the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])
