"""Oracle influence: what single training steps do to the reference loss (method section 2).

A rollout trains the checkpoint on one document after the other; the influence of step t is the
marginal L(D_r, M_t) - L(D_r, M_{t-1}) of two recorded losses, in nats, negative where it helped.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from groupmates.artefacts.store import Provenance, digests, read_table, write_table
from groupmates.artefacts.unfinished import Kept
from groupmates.models.probing import Probing
from groupmates.models.reference import Reference, reference_part
from groupmates.models.tokenizer import token_lists
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
    output: Path,
    threads: int = 1,
) -> None:
    """Probe the `part`-th of `parts` nearly equal ranges of rollouts; each stands on its own."""
    torch.set_num_threads(threads)
    plan = read_table(rollouts, "rollouts")
    numbers = np.array_split(np.unique(plan["rollout"].to_numpy()), parts)[part]
    chosen = plan.filter(np.isin(plan["rollout"].to_numpy(), numbers))
    pool = read_table(probe_pool, "probe_pool", ["doc_id", "input_ids"])
    place = {doc_id: i for i, doc_id in enumerate(pool["doc_id"].to_pylist())}
    sequences = token_lists(pool)
    doc_ids = chosen["doc_id"].to_pylist()
    provenance = Provenance(
        "probe",
        settings.model_dump(mode="json") | {"part": part, "parts": parts},
        digests(base=base, pool=probe_pool, reference=reference, rollouts=rollouts),
    )
    with Kept(output, "probe", provenance) as kept:
        before, after = _probe(
            base,
            reference_part(reference, "selection", settings.selection_examples)[0],
            [sequences[place[d]] for d in doc_ids],
            doc_ids,
            chosen["rollout"].to_numpy(),
            chosen["step"].to_numpy(),
            f"probe {output.parent.name} {part + 1}/{parts}",
            kept,
        )
        write_table(
            output,
            "probe",
            provenance,
            {
                "rollout": chosen["rollout"],
                "step": chosen["step"],
                "doc_id": chosen["doc_id"],
                "loss_before_nats": before,
                "loss_after_nats": after,
                "influence_nats": after - before,
            },
        )
        kept.clear()


def _probe(
    base: Path,
    reference: Reference,
    sequences: list[np.ndarray],
    doc_ids: list[str],
    rollout: np.ndarray,
    step: np.ndarray,
    label: str,
    kept: Kept,
) -> tuple[np.ndarray, np.ndarray]:
    """Reference losses before and after every step, float64 [steps], nats.

    Goes on where `kept` ends. In the middle of a rollout the steps before are trained once more, as
    the model is not kept; their losses, which are nearly all of the work, are.
    """
    probing = Probing(base, reference)
    start, loss = probing.snapshot(), probing.start_loss
    before, after = np.empty(len(step)), np.empty(len(step))
    done = kept.state.get("steps", 0)
    if done:
        before[:done], after[:done] = np.load(kept.file(f"losses-{done}.npy"))
    progress = Progress(label, len(step), "steps", done)
    for i in range(done - (step[done] - 1) if done < len(step) else done, len(step)):
        if step[i] == 1:
            start.restore()
            loss = probing.start_loss
            probing.seed_dropout("probe", str(rollout[i]))
        probing.train(sequences[i])
        if i < done:
            loss = after[i]
            continue
        before[i] = loss
        loss = after[i] = probing.loss(doc_ids[i], f"rollout {rollout[i]}, step {step[i]}")
        progress.advance()
        if kept.due():
            losses = np.stack([before[: i + 1], after[: i + 1]])
            name = f"losses-{i + 1}.npy"
            kept.save({"steps": i + 1}, {name: partial(np.save, arr=losses)}, only=True)
    progress.finish()
    return before, after
