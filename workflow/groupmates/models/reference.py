"""The reference artefact as reference sets on the device."""

from __future__ import annotations

from pathlib import Path

import pyarrow.compute as pc

from groupmates.models.lm import Reference
from groupmates.models.text import token_lists
from groupmates.store import read_table

BATCH_TOKENS = 8192


def reference_part(path: Path, split: str, examples: int) -> tuple[Reference, list[str]]:
    """At most `examples` of the `selection` or the `evaluation` part, and their ids."""
    table = read_table(path, "reference")
    table = table.filter(pc.equal(table["split"], split)).slice(0, examples)
    table = table.take(pc.sort_indices(table["example_id"]))
    starts = table["label_start"].to_numpy()
    return Reference(token_lists(table), starts, BATCH_TOKENS), table["example_id"].to_pylist()
