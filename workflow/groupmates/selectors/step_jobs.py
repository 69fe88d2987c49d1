"""What the rules `prepare` and `order` ask of a method's selector: inputs, command, memory, time.

Light: every parse of the workflow imports it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Any

from groupmates.errors import UserError
from groupmates.pool import listing, opening
from groupmates.pool.listing import PoolFile
from groupmates.settings import lines
from groupmates.settings.config import Config
from groupmates.settings.per_stage import as_param, steps_of
from groupmates.settings.selectors import POOL, Need, Step

Growing = Callable[[int], Callable[..., int]]  # of an amount, by wildcards and attempt


class StepJobs:
    """The jobs of all methods that do one step; most functions take the wildcards of a job.

    `artefact(line, name, **wildcards)` is a path that jobs of a line read, `shards` are the pool's
    files by scoring shard, and `made_here` picks those that the run itself makes: the user's are no
    inputs to snakemake.
    """

    def __init__(
        self,
        step: str,
        config: Config,
        shards: dict[str, list[PoolFile]],
        artefact: Callable[..., str],
        made_here: Callable[[list[str]], list[str]],
    ) -> None:
        self._config, self._shards = config, shards
        self._artefact, self._made_here = artefact, made_here
        self._kind = step
        self._steps: dict[int, dict[str, Step]] = {}  # by stage of pretraining and method

    def _of_stage(self, stage: int) -> dict[str, Step]:
        """The step of every method that has it; the budget is that up to this stage."""
        if stage not in self._steps:
            config = lines.up_to_stage(self._config, stage)
            steps = {method: steps_of(config, method) for method in config.select.methods}
            kind = self._kind
            self._steps[stage] = {m: found[kind] for m, found in steps.items() if kind in found}
        return self._steps[stage]

    def _step(self, wildcards: Any) -> Step:
        stage = lines.stage_of(_line_of(wildcards))
        return self._of_stage(stage)[wildcards.method]

    def methods(self, gpu: bool) -> str:
        """A pattern of the methods whose step uses a GPU, or of those whose step does not."""
        found = [method for method, step in self._of_stage(1).items() if step.gpu == gpu]
        return "|".join(found) or "(?!)"

    def inputs(self, wildcards: Any) -> dict[str, str | list[str]]:
        """Files by the argument that names them."""
        needs = self._step(wildcards).needs()
        return {n.argument: self._files(n, wildcards) for n in needs if n.artefact is not None}

    def _files(self, need: Need, wildcards: Any) -> str | list[str]:
        if need == POOL:
            return self._made_here([file.path for file in self._pool(wildcards)])
        assert need.artefact is not None
        method = wildcards.method
        line = lines.source(self._config, _line_of(wildcards), method, need.artefact)
        path = self._artefact(line, need.artefact, method=method, model=need.model)
        if "{shard}" in path:
            return [path.replace("{shard}", shard) for shard in self._shards]
        return path

    def _pool(self, wildcards: Any) -> list[PoolFile]:
        """The pool's files; those of one scoring shard, where each job has one."""
        shards = list(self._shards.values())
        if self._step(wildcards).shares == "shards":
            shards = [shards[int(wildcards.partition)]]
        return [file for files in shards for file in files]

    def of(self, what: str) -> Callable[[Any], Any]:
        """What the class of a step says."""
        return lambda wildcards: getattr(self._step(wildcards), what)

    def resources(self, memory: Growing, minutes: Growing) -> dict[str, Callable[..., int]]:
        """Memory and time that the class says: more with every attempt, by these two functions."""

        def grown(what: str, growing: Growing) -> Callable[..., int]:
            said = self.of(what)
            return lambda wildcards, attempt: growing(said(wildcards))(wildcards, attempt)

        return {"mem_mb": grown("memory", memory), "runtime": grown("minutes", minutes)}

    def settings(self, wildcards: Any) -> str:
        step = self._step(wildcards)
        # Finished runs have recorded the sum of the versions.
        return as_param(step, *step.writes, start=len(step.writes))

    def seen(self, wildcards: Any) -> str:
        """What the user's own files look like: a change of one makes the step stale."""
        needs = self._of_user(wildcards)
        return opening.stamp([path for need in needs for path in files_of_user(need)])

    def _of_user(self, wildcards: Any) -> list[Need]:
        return [n for n in self._step(wildcards).needs() if n.artefact is None]

    def partitions(self, wildcards: Any) -> int:
        """Jobs that share the step."""
        shared = {"clusters": self._config.select.partitions, "shards": len(self._shards)}
        return shared.get(self._step(wildcards).shares or "", 1)

    def arguments(self, wildcards: Any, input: Any) -> str:
        """The part of the command line about inputs, the job's number and limits.

        Snakemake does not record it: it does so with inputs, and a limit makes nothing stale.
        """
        step = self._step(wildcards)
        words = dict(input.items())
        words |= {need.argument: files_of_user(need) for need in self._of_user(wildcards)}
        if POOL in step.needs():
            words["pool"] = [file.marked for file in self._pool(wildcards)]
        if step.shares:
            words["partition"] = int(wildcards.partition)
            words["partitions"] = self.partitions(wildcards)
        if self._kind == "prepare":
            section = self._config.select.method(wildcards.method)
            words |= {limit: getattr(section, limit) for limit in section.limits}
        return " ".join(
            f"--{argument.replace('_', '-')} {spelled(value)}" for argument, value in words.items()
        )


def _line_of(wildcards: Any) -> str:
    return getattr(wildcards, "line", lines.FIRST)


def spelled(value: Any) -> str:
    """An argument's value for a shell; of several files, ranges."""
    if isinstance(value, (str, int)):
        return shlex.quote(str(value))
    return shlex.join(listing.compact(list(value)))


def files_of_user(need: Need) -> list[str]:
    """Files that are no artefact; all must be there."""
    found = listing.expand(list(need.files), need.key)
    if missing := [path for path in found if not os.path.exists(path)]:
        raise UserError(
            expected="files of the user",
            found=f"no file {missing[0]}",
            where=need.key,
            todo="correct the path",
        )
    return found
