"""Uniform over the pool: the baseline of every comparison."""

from __future__ import annotations

from pathlib import Path

from groupmates.artefacts.store import Provenance, read_column, rows_of, table_writer
from groupmates.maths.randomness import uniforms
from groupmates.progress import Progress
from groupmates.selectors.order import without_groups
from groupmates.settings.selectors import Random


def order(settings: Random.Order, *, score: list[Path], output: Path) -> None:
    """A document's key is a hash of its id."""
    provenance = Provenance.of("select", settings, score=score)
    progress = Progress("order random", sum(map(rows_of, score)), "documents")
    with table_writer(output, "order", provenance) as writer:
        for shard, path in enumerate(score):
            ids = read_column(path, "score", "doc_id").to_pylist()
            key_N = uniforms(settings.seed, "select", ids)
            writer.write(without_groups(shard, key_N))
            progress.advance(len(ids))
    progress.finish()
