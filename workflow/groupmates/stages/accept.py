"""A floor under the influence model: one that predicts nothing stops the run here, kept for a look."""

from __future__ import annotations

from pathlib import Path

from groupmates.artefacts.store import Provenance, read_folder_json, write_json
from groupmates.errors import UserError
from groupmates.settings.per_stage import AcceptSettings


def run(settings: AcceptSettings, *, model: Path, output: Path) -> None:
    """Write `accept/{model}.json`, or raise `UserError` before the expensive stages."""
    metrics = read_folder_json(model, "fit", "metrics.json")
    found, floor = metrics["spearman_within_position"]["full"], settings.accept.minimum_spearman
    if not found >= floor:
        more = (
            "label more documents (sample.probe_documents)"
            if "first_order" in metrics
            else "probe more rollouts (probe.random.rollouts)"
        )
        raise UserError(
            expected=f"a held-out Spearman within positions of at least {floor} "
            "(accept.minimum_spearman)",
            found=f"{found:.3f} from {metrics['labels']:,} labels",
            where=str(model / "metrics.json"),
            todo=f"{more}, use a larger reference set, train the base model further, or try another "
            "fit.encoder; to go on regardless lower the floor",
        )
    provenance = Provenance.of("accept", settings, model=model)
    write_json(output, "accept", provenance, {"spearman_within_position": found})
