"""The processes that share one training: this one alone, or those of a launched job.

All hold the whole model and take the same steps. Each works at its rows of every batch, and
gradients are averaged (DistributedDataParallel). So any number of processes takes the steps of one,
up to rounding. The first of them keeps progress and writes.
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """Number `rank` of `count` processes."""

    rank: int
    count: int

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, rows: int) -> tuple[slice, float]:
        """This process's part of a batch, and the weight of its mean loss in the mean over all.

        Weights are such that the *average* of the weighted gradients over the processes is the
        gradient of the batch. Where there are fewer rows than processes, some work at a row that
        counts nothing: all must take part in every step.
        """
        start, end = (rows * r // self.count for r in (self.rank, self.rank + 1))
        if start == end:
            return slice(0, 1), 0.0
        return slice(start, end), (end - start) * self.count / rows

    def joined(self, model: nn.Module) -> nn.Module:
        """The model whose gradients are averaged over all processes; weights become the first's."""
        if self.count == 1:
            return model
        with warnings.catch_warnings():
            # Renamed in torch 2.13. Buffers are constants here, and processes may differ in how
            # many passes a step takes.
            warnings.simplefilter("ignore", FutureWarning)
            # Some encoders have weights that no loss depends on.
            return DistributedDataParallel(
                model,
                broadcast_buffers=False,
                find_unused_parameters=True,
                gradient_as_bucket_view=True,  # no second copy of the gradients
            )

    def any(self, flag: bool) -> bool:
        """Whether any process says so; all learn it at the same step."""
        if self.count == 1:
            return flag
        found = torch.tensor(float(flag))
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return bool(found)

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The average over all processes of a scalar."""
        if self.count > 1:
            dist.all_reduce(value)
            value /= self.count
        return value

    def of_first(self, value: T) -> T:
        """The first process's value, for all."""
        values = [value]
        if self.count > 1:
            dist.broadcast_object_list(values)
        return values[0]

    def tensors_of_first(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The first process's tensors (on the CPU), for all; read from one disk once."""
        if self.count == 1:
            return tensors
        for name, shape, dtype in self.of_first(
            [(n, t.shape, t.dtype) for n, t in tensors.items()]
        ):
            tensor = tensors[name] if self.first else torch.empty(shape, dtype=dtype)
            dist.broadcast(tensor, 0)
            tensors[name] = tensor
        return tensors


def processes() -> Processes:
    """Those of torch.distributed, where it was set up."""
    if dist.is_available() and dist.is_initialized():
        return Processes(dist.get_rank(), dist.get_world_size())
    return Processes(0, 1)


def averaging(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """For one of several backward passes of a step: only the last one averages gradients."""
    if last or not isinstance(model, DistributedDataParallel):
        return nullcontext()
    return model.no_sync()
