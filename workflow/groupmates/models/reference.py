"""The reference artefact as reference sets on the device."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from groupmates.models.lm import Reference
from groupmates.models.text import token_lists
from groupmates.store import read_table

BATCH_TOKENS = 8192


def reference_part(path: Path, split: str) -> tuple[Reference, list[str]]:
    """The `selection` or `evaluation` examples, and their ids."""
    table = read_table(path, "reference")
    table = table.filter(pc.equal(table["split"], split))
    starts = table["label_start"].to_numpy()
    return Reference(token_lists(table), starts, BATCH_TOKENS), table["example_id"].to_pylist()


def selection_part(path: Path) -> Reference:
    """The examples that steer the selection."""
    return reference_part(path, "selection")[0]
