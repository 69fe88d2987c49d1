"""Jobs that die again and again at the n-th call of a function, and are started anew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trainings


def dying(
    monkeypatch: pytest.MonkeyPatch, owner: type, name: str, every: int
) -> list[tuple[Any, ...]]:
    """`owner.name` dies at every so many calls; the arguments of all calls, as they come."""
    true, calls = getattr(owner, name), []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) % every == 0:
            raise KeyboardInterrupt
        return true(*arguments)

    monkeypatch.setattr(owner, name, dies)
    return calls


def saving(monkeypatch: pytest.MonkeyPatch, every: int = 1) -> None:
    """What was done is saved at every so many occasions."""
    occasions = 0

    def is_due(kept: object) -> bool:
        nonlocal occasions
        occasions += 1
        return occasions % every == 0

    monkeypatch.setattr("groupmates.artefacts.unfinished.Kept.due", is_due)


def until_written(output: Path, job: Callable[[], object]) -> int:
    """Start the job until its output is there; how often that was."""
    attempts = 0
    while not output.exists():
        attempts += 1
        try:
            job()
        except KeyboardInterrupt:
            continue
    return attempts


def survives(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    owner: type,
    name: str,
    every: int,
    make: Callable[[Path], Path],
    saves: int = 1,
) -> tuple[int, list[tuple[Any, ...]]]:
    """What a job leaves that dies at every so many calls of `owner.name` is what it makes in one go.

    `make` runs it in a folder and returns its output. How often it was started, and all calls.
    """
    whole, again = folder / "whole", folder / "killed"
    output = again / make(whole).relative_to(whole)
    saving(monkeypatch, saves)
    calls = dying(monkeypatch, owner, name, every)
    attempts = until_written(output, lambda: make(again))
    assert trainings.artefacts(again) == trainings.artefacts(whole)
    return attempts, calls
