"""True group influence: what training on a whole set of documents does to the reference loss.

As in probing, from the checkpoint, one document after the other; but the loss is looked at where a set
is complete, not after every step. Sets of smaller sizes are the beginning of larger ones and share
their training.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.artefacts.store import Provenance, read_column, read_table, write_table
from groupmates.artefacts.unfinished import Kept
from groupmates.maths.document_sets import near_sets, random_sets
from groupmates.models.encoders import BATCH_TOKENS
from groupmates.models.influence import InfluenceModel
from groupmates.models.probing import Probing, part_of, sequences_of
from groupmates.models.tokenizer import token_lists
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import GroupPlanSettings, ProbeSettings


def run_plan(
    settings: GroupPlanSettings,
    *,
    probe_pool: Path,
    random: Path,
    bootstrap: list[Path] | None = None,
    first_order: list[Path] | None = None,
    model: Path,
    output: Path,
) -> None:
    """Draw sets of documents that the final model was not fitted on, where there are enough of them.

    Enough: random sets could all be disjoint. `random` and `bootstrap` are the plans of the rounds,
    `first_order` has labels that the model was fitted to.
    """
    sets, sizes = settings.groups.sets, np.array(settings.groups.sizes)
    length = int(sizes[-1])
    pool = read_table(probe_pool, "probe_pool", ["doc_id", "text", "input_ids"])
    ids_of_fit = fitted_on(random, bootstrap or [], first_order or [], model)
    seen_N = np.isin(pool["doc_id"].to_numpy(), ids_of_fit)
    enough = int((~seen_N).sum()) >= sets * length
    among = np.flatnonzero(~seen_N) if enough else np.arange(len(pool))
    which = "that the fit has not seen" if enough else "of which the fit has seen some"
    note("plan groups", f"sets are drawn from {len(among):,} documents {which}")
    pool, seen_N = pool.take(among), seen_N[among]
    progress = Progress("plan groups embeddings", len(pool), "documents")
    individual_N, emb_ND = InfluenceModel.load(model).score(
        pool["text"].to_pylist(), token_lists(pool), BATCH_TOKENS, progress.advance
    )
    progress.finish()
    drawn = {
        "random": random_sets(len(pool), sets, length, settings.seed),
        "near": near_sets(emb_ND, sets, length, settings.seed),
    }
    document = np.concatenate(list(drawn.values())).ravel()
    step = np.tile(np.arange(1, length + 1), len(drawn) * sets)
    columns = {
        "set": np.repeat(np.arange(len(drawn) * sets), length),
        "kind": np.repeat(list(drawn), sets * length),
        "size": sizes[np.searchsorted(sizes, step)],
        "step": step,
        "doc_id": pool["doc_id"].to_numpy()[document],
        "seen": seen_N[document],
        "individual_influence": individual_N[document],
        "embedding": emb_ND[document],
    }
    provenance = Provenance.of(
        "groups",
        settings,
        pool=probe_pool,
        random=random,
        bootstrap=bootstrap,
        first_order=first_order,
        model=model,
    )
    write_table(output, "group_sets", provenance, columns, emb_ND.shape[1])


def fitted_on(
    random: Path, bootstrap: list[Path], first_order: list[Path], model: Path
) -> np.ndarray:
    """Ids of the documents with a label that the model was fitted to, or its epoch chosen by."""
    heldout = read_table(model / "heldout.parquet", "heldout", ["rollout", "doc_id"])
    if first_order:
        labelled = [read_column(path, "first_order", "doc_id").to_numpy() for path in first_order]
        return np.setdiff1d(np.concatenate(labelled), heldout["doc_id"].to_numpy())
    plan = read_table(random, "rollouts")
    fitted = ~np.isin(plan["rollout"].to_numpy(), heldout["rollout"].to_numpy())
    parts = [plan["doc_id"].to_numpy()[fitted]]
    parts += [read_column(path, "rollouts", "doc_id").to_numpy() for path in bootstrap]
    return np.unique(np.concatenate(parts))


def run(
    settings: ProbeSettings,
    *,
    base: Path,
    probe_pool: Path,
    reference: Path,
    sets: Path,
    part: int,
    parts: int,
    compile: int = 0,
    output: Path,
) -> None:
    """Train on the `part`-th of `parts` nearly equal ranges of sets; each stands on its own.

    `compile`: as in `probe`.
    """
    plan = read_table(sets, "group_sets", ["set", "kind", "size", "step", "doc_id"])
    plan = part_of(plan, "set", part, parts)
    doc_ids, number = plan["doc_id"].to_pylist(), plan["set"].to_pylist()
    step, size = plan["step"].to_numpy(), plan["size"].to_numpy()
    sequences = sequences_of(probe_pool)
    provenance = Provenance.of(
        "groups", settings, base=base, pool=probe_pool, reference=reference, sets=sets
    ).also(part=part, parts=parts)
    label = f"probe groups {part + 1}/{parts}"
    probing = Probing.of_job(settings, base, reference, sequences, label, bool(compile))
    # As in `probe`: losses of the same kernels alone are subtracted.
    with Kept(output, "group_probe", provenance.also(compiled=probing.compiled)) as kept:
        losses = kept.values
        complete = np.flatnonzero(step == size)  # a loss for each of these rows
        done = int(complete[len(losses) - 1]) + 1 if losses else 0
        progress = Progress(label, len(plan), "steps", done)
        for row in probing.along(sequences, plan, "group", "set", done):
            progress.advance()
            if step[row] == size[row]:
                losses.append(probing.loss(doc_ids[row], f"set {number[row]}, step {step[row]}"))
                kept.measured(losses)
        progress.finish()
        measured, after_M = plan.take(complete), np.array(losses)
        columns = {
            **{name: measured[name] for name in ("set", "kind", "size")},
            "loss_before_nats": np.full(len(after_M), probing.start_loss),
            "loss_after_nats": after_M,
            "influence_nats": after_M - probing.start_loss,
        }
        write_table(output, "group_probe", provenance, columns)
        kept.clear()
