"""MATES: the documents of best individual influence, drawn with Gumbel noise (method section 8)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.artefacts.store import Provenance, read_column, rows_of, table_writer
from groupmates.maths.gumbel import gumbel_keys
from groupmates.maths.randomness import uniforms
from groupmates.progress import Progress
from groupmates.selectors.order import check_same_documents, without_groups
from groupmates.settings.selectors import Mates


def order(settings: Mates.Order, *, score: list[Path], scored_by: list[Path], output: Path) -> None:
    """Order by influence of a single training step: `scored_by`, rows as in `score`.

    Influences are standardised over the pool. Memory: 4 bytes per document, and a shard.
    """
    check_same_documents(score, scored_by)
    columns = [read_column(path, "score", "individual_influence") for path in scored_by]
    influences = [column.to_numpy() for column in columns]
    influence_N = np.concatenate(influences).astype(np.float64)
    mean, deviation = float(influence_N.mean()), float(influence_N.std())
    provenance = Provenance.of("select", settings, score=score, scored_by=scored_by)
    progress = Progress("order mates", sum(map(rows_of, score)), "documents")
    with table_writer(output, "order", provenance) as writer:
        for shard, (path, found) in enumerate(zip(score, influences, strict=True)):
            ids = read_column(path, "score", "doc_id").to_pylist()
            uniform_N = uniforms(settings.seed, "mates", ids)
            standard_N = (found.astype(np.float64) - mean) / max(deviation, 1e-12)
            key_N = gumbel_keys(standard_N, uniform_N, settings.mates.temperature)
            writer.write(without_groups(shard, key_N))
            progress.advance(len(ids))
    progress.finish()
