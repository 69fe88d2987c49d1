"""What a run found, in a few lines for the terminal."""

from __future__ import annotations

from pathlib import Path

from groupmates.artefacts.catalogue import path
from groupmates.artefacts.store import read_artefact_json, read_folder_json


def headline(run: Path) -> str:
    """Where dataset and report lie, and the figures that matter; `run` is results/{run}."""
    summary = read_artefact_json(run / path("summary"), "summary")
    metrics = read_folder_json(run / path("fit").format(model="final"), "fit", "metrics.json")
    spearman, (low, high) = metrics["spearman"], metrics["spearman_difference_interval"]
    lines = [
        f"report            {run / path('report')}",
        *(f"dataset           {run / 'dataset' / method}/" for method in summary["methods"]),
        f"influence model   held-out Spearman {spearman['full']:.3f}, position mean alone "
        f"{spearman['position_mean']:.3f} (difference, 95 % interval {low:+.3f} to {high:+.3f})",
    ]
    for method, entry in summary["methods"].items():
        share = entry["tokens"] / summary["pool_tokens"]
        lines.append(
            f"{method:<18}{entry['documents']:,} of {summary['pool_documents']:,} documents, "
            f"{share:.1%} of the tokens; held-out loss {entry['mean_nats']:.4f} nats "
            f"after {summary['trained_tokens']:,} training tokens"
        )
    for method, found in summary["comparisons"].items():
        doubt = f"{summary['seeds']} seeds"
        if found["interval_by_seed_nats"]:
            low, high = found["interval_by_seed_nats"]
            doubt = f"95 % interval {low:+.4f} to {high:+.4f} over {doubt}"
        difference = f"{found['difference_nats']:+.4f} nats ({doubt})"
        lines.append(f"{'':<18}{method} minus {summary['baseline']}: {difference}")
    return "\n".join(lines)
