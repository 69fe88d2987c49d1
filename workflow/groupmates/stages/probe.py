"""Oracle influence: what single training steps do to the reference loss (method section 2).

A rollout trains the checkpoint on one document after the other. The influence of step t is the
marginal L(D_r, M_t) - L(D_r, M_{t-1}) of two recorded losses, in nats. It is negative where it helped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.artefacts.store import Provenance, read_table, write_table
from groupmates.artefacts.unfinished import Kept
from groupmates.models.probing import Probing, part_of, sequences_of
from groupmates.progress import Progress
from groupmates.settings.per_stage import ProbeSettings


def run(
    settings: ProbeSettings,
    *,
    base: Path,
    probe_pool: Path,
    reference: Path,
    rollouts: Path,
    part: int,
    parts: int,
    compile: int = 0,
    output: Path,
) -> None:
    """Probe the `part`-th of `parts` nearly equal ranges of rollouts; each stands on its own.

    `compile`: whether the model's layers are (1) or not (0).
    """
    plan = part_of(read_table(rollouts, "rollouts"), "rollout", part, parts)
    doc_ids, number, step = (plan[n].to_pylist() for n in ("doc_id", "rollout", "step"))
    sequences = sequences_of(probe_pool)
    provenance = Provenance.of(
        "probe", settings, base=base, pool=probe_pool, reference=reference, rollouts=rollouts
    ).also(part=part, parts=parts)
    label = f"probe {output.parent.name} {part + 1}/{parts}"
    probing = Probing.of_job(settings, base, reference, sequences, label, bool(compile))
    # Losses of compiled layers are never subtracted from those of plain ones.
    with Kept(output, "probe", provenance.also(compiled=probing.compiled)) as kept:
        losses = kept.values  # before and after every step: nearly all of the work
        progress = Progress(label, len(plan), "steps", len(losses))
        for row in probing.along(sequences, plan, "probe", "rollout", len(losses)):
            before = probing.start_loss if step[row] == 1 else losses[-1][1]
            where = f"rollout {number[row]}, step {step[row]}"
            losses.append([before, probing.loss(doc_ids[row], where)])
            progress.advance()
            kept.measured(losses)
        progress.finish()
        before_N, after_N = np.array(losses).reshape(-1, 2).T
        probing.told_if_drowned(label, after_N - before_N)
        columns = {
            **{name: plan[name] for name in ("rollout", "step", "doc_id")},
            "loss_before_nats": before_N,
            "loss_after_nats": after_N,
            "influence_nats": after_N - before_N,
        }
        write_table(output, "probe", provenance, columns)
        kept.clear()
