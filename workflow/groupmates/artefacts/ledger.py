"""What the stages of pretraining have consumed of their selections, by the ledgers."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, takewhile
from pathlib import Path

import pyarrow.compute as pc

from groupmates.artefacts.catalogue import line_of, path
from groupmates.artefacts.store import concatenate, read_table


@dataclass(frozen=True)
class Consumed:
    """Of `selected` documents, a stage was trained on `documents`, by `tokens` predicted tokens.

    Repeats are counted among the tokens. `passes`: the tokens over those of the whole selection.
    """

    stage: int
    selected: int
    documents: int
    tokens: int
    passes: float


def consumed(run: Path, method: str, seed: int = 0) -> list[Consumed]:
    """What each stage of a training in a run's folder has consumed, from the first on.

    Stages that are not through yet are left out.
    """

    def place(stage: int, name: str) -> str:
        pattern = line_of(stage, method) + path(name)
        return pattern.format(method=method, seed=seed, shard="*")

    through = takewhile(lambda stage: (run / place(stage, "ledger")).exists(), count(1))
    return [
        of_stage(stage, run / place(stage, "ledger"), sorted(run.glob(place(stage, "select"))))
        for stage in through
    ]


def of_stage(stage: int, ledger: Path, select: list[Path]) -> Consumed:
    """What a stage has consumed of its selection."""
    tokens_N = read_table(ledger, "ledger", ["tokens"])["tokens"]
    selected_N = concatenate(select, "select", ["n_tokens"])["n_tokens"]
    tokens, of_all = int(pc.sum(tokens_N).as_py() or 0), int(pc.sum(selected_N).as_py() or 0)
    passes = tokens / of_all if of_all else 0.0
    return Consumed(stage, len(selected_N), len(tokens_N), tokens, passes)
