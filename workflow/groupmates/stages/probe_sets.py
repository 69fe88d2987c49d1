"""True group influence: what training on a whole set of documents does to the reference loss.

As in probing, from the checkpoint, one document after the other; but the loss is looked at where a set
is complete, not after every step. Sets of smaller sizes are the beginning of larger ones and share
their training.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from groupmates.artefacts.store import Provenance, digests, read_table, write_table
from groupmates.artefacts.unfinished import Kept
from groupmates.maths.document_sets import near_sets, random_sets
from groupmates.models.encoders import BATCH_TOKENS
from groupmates.models.influence import InfluenceModel
from groupmates.models.probing import Probing
from groupmates.models.reference import reference_part
from groupmates.models.tokenizer import token_lists
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import GroupPlanSettings, ProbeSettings


def run_plan(
    settings: GroupPlanSettings,
    *,
    probe_pool: Path,
    random: Path,
    bootstrap: list[Path] | None = None,
    model: Path,
    output: Path,
    threads: int = 1,
) -> None:
    """Draw sets of documents that the final model was not fitted on, where there are enough of them.

    Enough: random sets could all be disjoint. `random` and `bootstrap` are the plans of the rounds.
    """
    torch.set_num_threads(threads)
    sets, sizes = settings.groups.sets, np.array(settings.groups.sizes)
    length = int(sizes[-1])
    pool = read_table(probe_pool, "probe_pool", ["doc_id", "text", "input_ids"])
    seen_N = np.isin(pool["doc_id"].to_numpy(), fitted_on(random, bootstrap or [], model))
    enough = int((~seen_N).sum()) >= sets * length
    among = np.flatnonzero(~seen_N) if enough else np.arange(len(pool))
    note(
        "plan groups",
        f"sets are drawn from {len(among):,} documents"
        + (" that the fit has not seen" if enough else ", those of the fit included"),
    )
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
    write_table(
        output,
        "group_sets",
        Provenance(
            "groups",
            settings.model_dump(mode="json"),
            digests(pool=probe_pool, random=random, bootstrap=bootstrap or [], model=model),
        ),
        {
            "set": np.repeat(np.arange(len(drawn) * sets), length),
            "kind": np.repeat(list(drawn), sets * length),
            "size": sizes[np.searchsorted(sizes, step)],
            "step": step,
            "doc_id": pool["doc_id"].to_numpy()[document],
            "seen": seen_N[document],
            "individual_influence": individual_N[document],
            "embedding": emb_ND[document],
        },
        embedding_size=emb_ND.shape[1],
    )


def fitted_on(random: Path, bootstrap: list[Path], model: Path) -> np.ndarray:
    """Ids of the documents in all rollouts but those that the model's figures are held out on."""
    heldout = read_table(model / "heldout.parquet", "heldout", ["rollout"])["rollout"].to_numpy()
    plan = read_table(random, "rollouts")
    fitted = ~np.isin(plan["rollout"].to_numpy(), heldout)
    parts = [plan["doc_id"].to_numpy()[fitted]]
    parts += [read_table(path, "rollouts")["doc_id"].to_numpy() for path in bootstrap]
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
    output: Path,
    threads: int = 1,
) -> None:
    """Train on the `part`-th of `parts` nearly equal ranges of sets; each stands on its own."""
    torch.set_num_threads(threads)
    plan = read_table(sets, "group_sets", ["set", "kind", "size", "step", "doc_id"])
    numbers = np.array_split(np.unique(plan["set"].to_numpy()), parts)[part]
    plan = plan.filter(np.isin(plan["set"].to_numpy(), numbers))
    pool = read_table(probe_pool, "probe_pool", ["doc_id", "input_ids"])
    sequences = dict(zip(pool["doc_id"].to_pylist(), token_lists(pool), strict=True))
    provenance = Provenance(
        "groups",
        settings.model_dump(mode="json") | {"part": part, "parts": parts},
        digests(base=base, pool=probe_pool, reference=reference, sets=sets),
    )
    with Kept(output, "group_probe", provenance) as kept:
        examples = reference_part(reference, "selection", settings.selection_examples)[0]
        probing = Probing(base, examples)
        label = f"probe groups {part + 1}/{parts}"
        complete, after = _losses(probing, plan, sequences, label, kept)
        measured = plan.take(complete)
        write_table(
            output,
            "group_probe",
            provenance,
            {
                **{name: measured[name] for name in ("set", "kind", "size")},
                "loss_before_nats": np.full(len(after), probing.start_loss),
                "loss_after_nats": after,
                "influence_nats": after - probing.start_loss,
            },
        )
        kept.clear()


def _losses(
    probing: Probing,
    plan: pa.Table,
    sequences: dict[str, np.ndarray],
    label: str,
    kept: Kept,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the plan that complete a set of a size, and the reference loss after each, nats.

    Goes on where `kept` ends. The set in the middle of which that is, is trained on from its beginning,
    as the model is not kept; losses are not measured twice.
    """
    step, size, number = (plan[name].to_numpy() for name in ("step", "size", "set"))
    doc_ids = plan["doc_id"].to_pylist()
    complete = np.flatnonzero(step == size)
    after = np.load(kept.file(kept.files[0])).tolist() if kept.state else []
    resumed = int(complete[len(after) - 1]) + 1 if after else 0
    first = resumed - (int(step[resumed]) - 1) if resumed < len(step) else resumed
    start = probing.snapshot()
    progress = Progress(label, len(step), "steps", resumed)
    for i in range(first, len(step)):
        if step[i] == 1:
            start.restore()
            probing.seed_dropout("group", str(number[i]))
        probing.train(sequences[doc_ids[i]])
        if i < resumed:
            continue
        progress.advance()
        if step[i] == size[i]:
            after.append(probing.loss(doc_ids[i], f"set {number[i]}, step {step[i]}"))
            if kept.due():
                write = partial(np.save, arr=np.array(after))
                kept.save({"losses": len(after)}, {f"losses-{len(after)}.npy": write}, only=True)
    progress.finish()
    return complete, np.array(after)
