"""Questions to a run, and the small run that a plan takes its rates from: what people type.

What a command needs is imported when it is asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit, Option, Typer

from groupmates.run_stage import STAGES

app = Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Questions to a run of Group-MATES, whose folder is results/RUN.",
    epilog=f"Rules call stages, and so can you (STAGE --help): {', '.join(STAGES)}.",
)
Run = Annotated[Path, Argument(metavar="RUN", help="Folder of the run, results/RUN.")]


@app.command()
def status(
    run: Run,
    watch: Annotated[
        bool, Option("--watch", help="Look again and again until all is done.")
    ] = False,
    seconds: Annotated[float, Option(min=0.1, help="Seconds between two looks.")] = 5.0,
) -> None:
    """Show what is done, what runs, what has failed and what is next."""
    from groupmates.status.view import show

    show(run, seconds if watch else None)


# An id may begin with a dash.
@app.command(context_settings={"ignore_unknown_options": True})
def explain(
    run: Run,
    doc_id: Annotated[str, Argument(metavar="DOC_ID", help="Id of a document of the pool.")],
    method: Annotated[str, Option(help="Method whose selection is asked about.")] = "group_mates",
    neighbours: Annotated[int, Option(min=0, help="Show at most so many.")] = 5,
) -> None:
    """Tell why a document was selected, or why not."""
    from groupmates.explain import document

    print(document.told(document.explain(run, doc_id, method, neighbours)))


@app.command()
def copy(
    run: Run,
    to: Annotated[Path, Argument(metavar="NEW", help="Folder of the copy, results/NEW.")],
) -> None:
    """Copy a run with Snakemake's records: other settings then make anew what they affect."""
    from groupmates.records.copied import copy

    print(f"{to} goes on from {run}: {copy(run, to):,} files with Snakemake's record of them")


@app.command()
def headline(run: Run) -> None:
    """Print the few figures that a finished run comes down to."""
    from groupmates.report.headline import headline

    print(headline(run))


@app.command()
def compare(
    runs: Annotated[list[Path], Argument(metavar="RUN...", help="Folders of finished runs.")],
    output: Annotated[Path, Option(help="Folder for comparison.csv, .md and .svg.")],
) -> None:
    """Merge runs that differ in the seed alone. Intervals are over their selections."""
    from groupmates.report import across_runs

    print(across_runs.compare(runs, output))


@app.command()
def compare_pretrained(
    runs: Annotated[list[Path], Argument(metavar="RUN...", help="Runs with pretrained models.")],
    output: Annotated[Path, Option(help="Folder for frontier.html, .csv and .md.")],
) -> None:
    """Compare pretrained models of several runs, such as one stage against two, paired by seed."""
    from groupmates.report import frontier_across

    print(frontier_across.compare(runs, output))


@app.command()
def calibrate(
    profile: Annotated[str, Option(help="Profile of the run.")] = "profiles/local",
    configfile: Annotated[
        list[str] | None, Option(help="As in the run; give it once for each file.")
    ] = None,
) -> None:
    """Measure this machine with a small run. Prints what the run itself will cost."""
    from groupmates.cost.calibration import calibrate

    raise Exit(calibrate(profile, configfile or []))
