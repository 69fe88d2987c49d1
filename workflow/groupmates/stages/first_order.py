"""First-order influences of the documents of the probe pool, each by itself and without a step."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from groupmates.artefacts.store import Provenance, write_table
from groupmates.artefacts.unfinished import Kept
from groupmates.models.first_order import FirstOrder
from groupmates.models.probing import sequences_of
from groupmates.models.reference import reference_part
from groupmates.progress import Progress
from groupmates.settings.per_stage import ProbeSettings


def run(
    settings: ProbeSettings,
    *,
    base: Path,
    probe_pool: Path,
    reference: Path,
    part: int,
    parts: int,
    output: Path,
) -> None:
    """Label the `part`-th of `parts` nearly equal shares of the batches of documents.

    A document has one label. It does not depend on the number of parts: batches do not.
    """
    sequences = sequences_of(probe_pool)
    doc_ids, tokens = list(sequences), list(sequences.values())
    examples, _ = reference_part(reference, "selection", settings.selection_examples)
    model = FirstOrder(base, examples, settings.learning_rate)
    batches = model.batches(tokens)
    ours = batches[len(batches) * part // parts : len(batches) * (part + 1) // parts]
    row_N = np.concatenate([np.empty(0, np.int64), *ours])
    provenance = Provenance.of(
        "probe", settings, base=base, pool=probe_pool, reference=reference
    ).also(part=part, parts=parts)
    # Labels are kept without their documents, so only for these, in this order.
    order = hashlib.sha256(row_N.tobytes()).hexdigest()
    with Kept(output, "first_order", provenance.also(order=order)) as kept:
        found = kept.values
        done, first = len(found), 0  # by an attempt before; documents of the batches before
        progress = Progress(f"first order {part + 1}/{parts}", len(row_N), "documents", done)
        for rows in ours:
            left = rows[max(0, done - first) :]
            first += len(rows)
            while len(left):
                here, left = left[: model.together], left[model.together :]
                found += model.influences(
                    [tokens[i] for i in here], [doc_ids[i] for i in here]
                ).tolist()
                progress.advance(len(here))
                kept.measured(found)
        progress.finish()
        loss_N, norm_N, influence_N = np.array(found).reshape(-1, 3).T
        columns = {
            "doc_id": [doc_ids[i] for i in row_N],
            "loss_nats": loss_N,
            "gradient_norm": norm_N,
            "influence_nats": influence_N,
        }
        write_table(output, "first_order", provenance, columns)
        kept.clear()
