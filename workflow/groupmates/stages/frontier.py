"""The frontier page of a run: was the selection worth its compute?"""

from __future__ import annotations

from pathlib import Path

from groupmates.artefacts.store import Provenance
from groupmates.progress import note
from groupmates.report import frontier
from groupmates.report.data import pretrained
from groupmates.settings.per_stage import FrontierSettings

BASELINE = "random"


def run(settings: FrontierSettings, *, inputs: list[Path], output: Path) -> None:
    """Write the page and its tables, `frontier.csv`, `.md` and `frontier-tasks.csv` beside it.

    `inputs`: curves, examples and models of all pretrainings, and their predictions of CORE, if any.
    Raises `UserError` where sizes that costs depend on are not known: those of `snakemake plan`.
    """
    config = settings.config
    found = pretrained.of_run(output.parent.parent, config, settings.charged, inputs)
    others = [m for m in found.methods if m != BASELINE and BASELINE in found.methods]
    page = frontier.page(
        frontier.Compared(
            title=f"run {config.run}",
            methods=found.methods,
            pairs=[(method, BASELINE) for method in others],
            measure=found.measure,
            apart={config.run: found.apart},
            examples=config.core.examples,
            seed=config.seed,
        )
    )
    # Of a model, its curve and examples tell: its weights may be as large as the disk.
    tables = [path for path in inputs if path.suffix == ".parquet"]
    provenance = Provenance.of("frontier", settings, tables=tables)
    frontier.write(output.parent, page, provenance.record("frontier"))
    for sentence in page.content["sentences"]:
        note("frontier", sentence)
