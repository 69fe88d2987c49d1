"""What the rules `prepare` and `order` ask of a method's selector: inputs, command, memory, time.

Light: every parse of the workflow imports it.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from typing import Any

from groupmates.errors import UserError
from groupmates.pool import listing
from groupmates.pool.listing import PoolFile
from groupmates.settings.config import Config
from groupmates.settings.per_stage import as_param, steps_of
from groupmates.settings.selectors import POOL, Need

Growing = Callable[[int], Callable[..., int]]  # of an amount, by wildcards and attempt


class StepJobs:
    """The jobs of all methods that do one step; most functions take the wildcards of a job.

    `artefact(name, **wildcards)` is a path of the run, `shards` are the pool's files by scoring shard,
    below the folder `root`, and `present` picks those that are there.
    """

    def __init__(
        self,
        step: str,
        config: Config,
        shards: dict[str, list[PoolFile]],
        root: str,
        artefact: Callable[..., str],
        present: Callable[[list[str]], list[str]],
    ) -> None:
        self._config, self._shards, self._root = config, shards, root
        self._artefact, self._present = artefact, present
        self._prepares = step == "prepare"
        steps = {method: steps_of(config, method) for method in config.select.methods}
        self._steps = {method: found[step] for method, found in steps.items() if step in found}

    def methods(self, gpu: bool) -> str:
        """A pattern of the methods whose step uses a GPU, or of those whose step does not."""
        found = [method for method, step in self._steps.items() if step.gpu == gpu]
        return "|".join(found) or "(?!)"

    def inputs(self, wildcards: Any) -> dict[str, str | list[str]]:
        """Files by the argument that names them."""
        needs = self._steps[wildcards.method].needs()
        return {need.argument: self._files(need, wildcards) for need in needs}

    def _files(self, need: Need, wildcards: Any) -> str | list[str]:
        if need.artefact is None:
            return files_of_user(need)
        if need == POOL:
            return self._present(self._pool(wildcards))
        path = self._artefact(need.artefact, method=wildcards.method, model=need.model)
        if "{shard}" in path:
            return [path.replace("{shard}", shard) for shard in self._shards]
        return path

    def _pool(self, wildcards: Any) -> list[str]:
        """The pool's files; those of one scoring shard, where each job has one."""
        shards = list(self._shards.values())
        if self._steps[wildcards.method].shares == "shards":
            shards = [shards[int(wildcards.partition)]]
        return [file.path for files in shards for file in files]

    def of(self, what: str) -> Callable[[Any], Any]:
        """What the class of a step says."""
        return lambda wildcards: getattr(self._steps[wildcards.method], what)

    def resources(self, memory: Growing, minutes: Growing) -> dict[str, Callable[..., int]]:
        """Memory and time that the class says: more with every attempt, by these two functions."""

        def grown(what: str, growing: Growing) -> Callable[..., int]:
            said = self.of(what)
            return lambda wildcards, attempt: growing(said(wildcards))(wildcards, attempt)

        return {"mem_mb": grown("memory", memory), "runtime": grown("minutes", minutes)}

    def settings(self, wildcards: Any) -> str:
        step = self._steps[wildcards.method]
        return as_param(step, *step.writes)

    def partitions(self, wildcards: Any) -> int:
        """Jobs that share the step."""
        shared = {"clusters": self._config.select.partitions, "shards": len(self._shards)}
        return shared.get(self._steps[wildcards.method].shares or "", 1)

    def arguments(self, wildcards: Any, input: Any) -> str:
        """The part of the command line about inputs, the job's number and limits.

        Snakemake does not record it: it does so with inputs, and a limit makes nothing stale.
        """
        step = self._steps[wildcards.method]
        words = dict(input.items())
        if "pool" in words:
            words |= {"pool": self._pool(wildcards), "root": self._root}
        if step.shares:
            words["partition"] = int(wildcards.partition)
            words["partitions"] = self.partitions(wildcards)
        if self._prepares:
            section = self._config.select.method(wildcards.method)
            words |= {limit: getattr(section, limit) for limit in section.limits}
        return " ".join(
            f"--{argument.replace('_', '-')} {spelled(value)}" for argument, value in words.items()
        )


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
