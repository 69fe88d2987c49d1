"""Which documents are trained on in which order (method section 4)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from groupmates.artefacts.store import Provenance, read_column, read_table, write_table
from groupmates.errors import UserError
from groupmates.maths.randomness import generator
from groupmates.maths.rollouts import beam_rollouts, random_rollouts
from groupmates.progress import Progress, note
from groupmates.settings.per_stage import (
    BootstrapPlanSettings,
    OneStepPlanSettings,
    RandomPlanSettings,
)


def run_random(settings: RandomPlanSettings, *, probe_pool: Path, output: Path) -> None:
    """Rollouts of documents drawn at random."""
    ids = read_column(probe_pool, "probe_pool", "doc_id").to_numpy()
    progress = Progress("plan random", settings.random.rollouts, "rollouts")
    rollouts, length = settings.random.rollouts, settings.rollout_length
    chosen = random_rollouts(len(ids), rollouts, length, settings.seed)
    progress.advance(len(chosen))
    progress.finish()
    provenance = Provenance.of("probe", settings, pool=probe_pool)
    _write(output, provenance, ids, chosen)


def run_one_step(settings: OneStepPlanSettings, *, probe_pool: Path, output: Path) -> None:
    """Rollouts of one step, for methods without groups (MATES): every document at most once.

    As many steps as the rounds of the group take together, where the probe pool has the documents.
    """
    ids = read_column(probe_pool, "probe_pool", "doc_id").to_numpy()
    order = generator(settings.seed, "one step").permutation(len(ids))
    provenance = Provenance.of("probe", settings, pool=probe_pool)
    _write(output, provenance, ids, order[: settings.steps, None])


def run_bootstrap(
    settings: BootstrapPlanSettings,
    *,
    probe_pool: Path,
    model: Path,
    output: Path,
) -> None:
    """Rollouts that the initial model predicts to be the most helpful and the most harmful."""
    # Here, so that the others, whose work takes no second, need not wait for torch.
    from groupmates.models.encoders import BATCH_TOKENS
    from groupmates.models.influence import InfluenceModel
    from groupmates.models.tokenizer import token_lists

    pool = read_table(probe_pool, "probe_pool", ["doc_id", "text", "input_ids"])
    influence = InfluenceModel.load(model)
    progress = Progress("plan bootstrap embeddings", len(pool), "documents")
    individual, embeddings = influence.score(
        pool["text"].to_pylist(), token_lists(pool), BATCH_TOKENS, progress.advance
    )
    progress.finish()
    bootstrap, steps = settings.bootstrap, settings.rollout_length - 1
    search = Progress("plan bootstrap search", 2 * steps, "steps")

    def stepped() -> None:
        if search.done == search.total:  # under a low cap a direction is searched again
            search.total += steps
        search.advance()

    capacity = np.full(len(pool), bootstrap.max_appearances)
    rounds = []
    for sign, rollouts in ((1, -(-bootstrap.rollouts // 2)), (-1, bootstrap.rollouts // 2)):
        if rollouts:
            sets = beam_rollouts(
                sign * individual,
                embeddings,
                influence.relation(),
                rollouts,
                settings.rollout_length,
                bootstrap.beam_width,
                bootstrap.expansion,
                capacity,
                stepped,
            )
            if len(sets) < rollouts:
                raise UserError(
                    expected=f"{rollouts:,} distinct sets in each direction",
                    found=f"{len(sets):,} under the cap of probe.bootstrap.max_appearances",
                    where=str(probe_pool),
                    todo="raise max_appearances or sample.probe_documents, or lower the rollouts",
                )
            rounds.append(sets)
    search.finish()
    chosen = np.concatenate(rounds)
    note("probe", f"{len(chosen):,} sets over {len(np.unique(chosen)):,} documents")
    provenance = Provenance.of("probe", settings, pool=probe_pool, model=model)
    _write(output, provenance, pool["doc_id"].to_numpy(), chosen)


def _write(path: Path, provenance: Provenance, ids: np.ndarray, chosen: np.ndarray) -> None:
    """Rollouts `chosen` [R, T], rows of the documents `ids`."""
    rollouts, length = chosen.shape
    columns = {
        "rollout": np.repeat(np.arange(rollouts), length),
        "step": np.tile(np.arange(1, length + 1), rollouts),
        "doc_id": ids[chosen.ravel()],
    }
    write_table(path, "rollouts", provenance, columns)
