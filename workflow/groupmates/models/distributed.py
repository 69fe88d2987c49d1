"""The processes that share one training: this one alone, or those of a launched job.

Accelerate brings them together. All take the same steps. Each works at its rows of every batch, and
gradients are averaged. So any number of processes takes the steps of one, up to rounding. The first
of them keeps progress and writes.

Each holds the whole model (DistributedDataParallel), or a part of every tensor (FSDP2).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list, gather_object, reduce
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")

# The others may wait for long while the first process reads, evaluates or saves.
SILENCE = timedelta(days=1)


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

    def any(self, *flags: bool) -> list[bool]:
        """Whether any process says so, of each flag; all learn it at the same step."""
        return [found > 0 for found in reduce(torch.tensor(flags).float(), "sum").tolist()]

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The average over all processes of a scalar."""
        return reduce(value, "mean")

    def of_each(self, value: T) -> list[T]:
        """What each process has, in their order, for all."""
        return gather_object([value])

    def of_first(self, value: T) -> T:
        """The first process's value, for all."""
        return broadcast_object_list([value])[0]

    def tensors_of_first(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The first process's tensors (on the CPU), for all; read from one disk once."""
        kinds = self.of_first({n: (t.shape, t.dtype) for n, t in tensors.items()})
        if not self.first:
            tensors = {n: torch.empty(shape, dtype=kind) for n, (shape, kind) in kinds.items()}
        return broadcast(tensors)


def meet() -> None:
    """Join the others; number, place and GPU of this process are those of torch's variables."""
    gpu = torch.cuda.is_available()
    backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
    PartialState(cpu=not gpu, backend=backend, timeout=SILENCE)


def processes() -> Processes:
    """Those that `meet` has brought together, or this one alone."""
    state = PartialState()
    return Processes(state.process_index, state.num_processes)


class Sharded:
    """A model and its AdamW with a part of every tensor in each process (FSDP2).

    Both are changed in place, and the model's parameters become other objects. A block's weights are
    whole while it computes. Torch does it, not Accelerate's `prepare`, which leaves AdamW's state
    behind and knows no CPU.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.AdamW) -> None:
        self._model, self._optimizer = model, optimizer
        before = dict(model.named_parameters())
        nothing = {id(p): nn.Parameter(p.detach().to("meta")) for p in before.values()}
        self._shell = copy.deepcopy(model, nothing)  # weights of no size; tied ones stay so
        state = PartialState()
        mesh = init_device_mesh(state.device.type, (state.num_processes,))
        blocks = set(getattr(model, "_no_split_modules", None) or ())
        for module in list(model.modules()):
            if type(module).__name__ in blocks:
                fully_shard(module, mesh=mesh)
        fully_shard(model, mesh=mesh)
        now: dict[nn.Parameter, Any] = {}
        for name, parameter in model.named_parameters():
            new: Any = parameter
            now[before[name]] = new
            kept = optimizer.state.pop(before[name])
            optimizer.state[new] = {
                key: tensor if key == "step" else distribute_tensor(tensor, mesh, new.placements)
                for key, tensor in kept.items()
            }
        for group in optimizer.param_groups:
            group["params"] = [now[parameter] for parameter in group["params"]]

    def model(self, first: bool) -> Any:
        """The whole model in the first process, None in the others; all call it."""
        whole = {n: of_all(p.detach(), first) for n, p in self._model.named_parameters()}
        if not first:
            return None
        named = self._shell.named_parameters()
        return copy.deepcopy(self._shell, {id(p): nn.Parameter(whole[n]) for n, p in named})

    def both(self, first: bool) -> tuple[Any, torch.optim.AdamW] | None:
        """The whole model and its AdamW in the first process, None in the others; all call it."""
        whole, states = self.model(first), {}
        for name, parameter in self._model.named_parameters():
            state = self._optimizer.state[parameter]
            states[name] = {key: of_all(tensor, first) for key, tensor in state.items()}
        if not first:
            return None
        optimizer = torch.optim.AdamW(whole.parameters())
        for name, parameter in whole.named_parameters():
            optimizer.state[parameter] = states[name]
        return whole, optimizer


def of_all(tensor: torch.Tensor, first: bool) -> Any:
    """A tensor that may be spread over the processes, whole in the first one, None in the others."""
    whole = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole if first else None
