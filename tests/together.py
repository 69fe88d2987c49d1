"""Several processes of one training, forked by a test: gloo, on one machine."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

from accelerate.state import AcceleratorState
from torch import distributed as dist

from groupmates.slurm import join

FORK = multiprocessing.get_context("fork")  # with torch, which is imported here already


def meet(meeting: Path, rank: int, count: int) -> None:
    """Join the others, number `rank` of `count`; they have a file of their own to find each other."""
    AcceleratorState._reset_state(reset_partial_state=True)  # of the test's own process
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
    os.environ |= dict(zip(names, map(str, (rank, rank, count, count)), strict=True))
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    join.join()


def run(count: int, target: Callable[..., None], *arguments: object, status: int = 0) -> None:
    """`target(*arguments, rank, count)` in each of `count` processes, which all end with `status`."""
    ranks = [FORK.Process(target=target, args=(*arguments, rank, count)) for rank in range(count)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    assert [process.exitcode for process in ranks] == [status] * count
