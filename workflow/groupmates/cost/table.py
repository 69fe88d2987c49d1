"""A plan as text: one line per stage, then where every rate came from."""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from typing import Any

from rich.box import SIMPLE
from rich.console import Console, RenderableType
from rich.table import Table

from groupmates.formatting import NOTHING, duration, memory, percent

WIDTH = 120  # of the table; sentences are as long as they are
UNKNOWN = "no rate"
NUMBERS = (
    *("jobs", "GPU-hours", "CPU-hours", "wall time", "memory", "GPU mem.", "disk"),
    "pretraining",
)
NO_RATE = (
    "Measure this machine with `make calibrate` (a few minutes; CONFIG=FILE PROFILE=FOLDER as in\n"
    "the run), or name another run or a file of rates in plan.rates."
)


def text(plan: dict[str, Any]) -> str:
    """The plan for a terminal, with its last line ended."""
    written = StringIO()
    console = Console(file=written, width=WIDTH, highlight=False, markup=False, emoji=False)
    for part in parts(plan):
        console.print(part, soft_wrap=isinstance(part, str))
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines()) + "\n"


def parts(plan: dict[str, Any]) -> Iterator[RenderableType]:
    where = f"{plan['gpus']} GPUs and " if plan["gpus"] else ""
    yield f"Plan of the run {plan['run']} on {where}{plan['cores']} cores"
    if any(source["basis"] == "assumed" for source in plan["sources"]):
        yield "ASSUMED rates are among these figures: arithmetic, not measured."
    yield stages(plan)
    yield "Stages are counted one after another, each with all its jobs at once where they fit."
    yield compared(plan)
    if plan["missing"]:
        yield f"\nNo rate is known for: {', '.join(plan['missing'])}."
        kernels = {k for s in plan["missing"] for k in plan["stages"][s]["unknown_kernels"]}
        if kernels:
            yield f"The files of plan.rates lack: {', '.join(sorted(kernels))}."
        yield NO_RATE
    yield "\nWhere the rates come from:"
    for number, source in enumerate(plan["sources"], 1):
        basis = source["basis"].upper()
        yield f"  [{number}] {basis} {source['name']}, {source['date']}, {source['machine']}"
    yield rates(plan)
    sizes = plan["sizes"]
    yield (
        f"Sizes:\n  {sizes['documents']:,} documents in {sizes['files']:,} files, "
        f"{sizes['tokens']:,.0f} tokens and {sizes['text_bytes']:,.0f} bytes each on average"
    )
    for key, value in sizes["basis"].items():
        yield f"  {key}: {value}"


def stages(plan: dict[str, Any]) -> Table:
    """A row for each stage, and their sum."""
    sums, against = plan["total"], plan["pretraining"]
    known = any(stage["wall_seconds"] is not None for stage in plan["stages"].values())
    table = Table(box=SIMPLE, show_footer=True, pad_edge=False)
    footer = (
        f"{sums['jobs']:,}",
        (hours(sums["gpu_hours"]) if known else UNKNOWN) if plan["gpus"] else NOTHING,
        hours(sums["cpu_hours"]) if known else UNKNOWN,
        duration(sums["wall_seconds"]) if known else UNKNOWN,
        *("", "", memory(sums["disk_bytes"] / 1e6)),
        percent(against and against["share"]),
    )
    table.add_column("stage", "all but unknown" if plan["missing"] else "all", no_wrap=True)
    for name, total in zip(NUMBERS, footer, strict=True):
        table.add_column(name, total, justify="right", no_wrap=True)
    for name, stage in plan["stages"].items():
        cost, gpu = stage["gpu_hours" if plan["gpus"] else "cpu_hours"], stage["gpu"]
        table.add_row(
            name,
            f"{stage['jobs']:,}",
            hours(stage["gpu_hours"]) if gpu else NOTHING,
            hours(stage["cpu_hours"]),
            UNKNOWN if stage["wall_seconds"] is None else duration(stage["wall_seconds"]),
            memory(stage["host_bytes"] / 1e6),
            memory(stage["gpu_bytes"] / 1e6) if gpu else NOTHING,
            memory(stage["disk_bytes"] / 1e6),
            percent(cost / against["hours"] if against and cost else None),
        )
    return table


def compared(plan: dict[str, Any]) -> str:
    against = plan["pretraining"]
    if not against:
        return "plan.pretraining is not set: no share of its cost."
    unit = "GPU-hours" if plan["gpus"] else "CPU-hours"
    return (
        f"Pretraining: {against['hours']:,.1f} {unit} ({against['basis']}); without the training "
        f"that evaluates, the run costs {against['share_without_evaluation']:.1%} of it."
    )


def rates(plan: dict[str, Any]) -> Table:
    """Every stage's rates, each with the number of its source."""
    number = {source["name"]: i for i, source in enumerate(plan["sources"], 1)}
    table = Table.grid(padding=(0, 2))
    for name, stage in plan["stages"].items():
        for what, rate in stage["rates"].items():
            if what == "start":
                value = f"{rate['seconds']:,.1f} s a job beside its work"
            else:
                speed = rate["per_second"]
                value = f"{speed:,.4g} {what}/s" if speed else "no work"
            basis = rate.get("basis", [])
            told = "" if basis in (["measured"], ["assumed"]) else "\n".join(basis)
            table.add_row(f"  {name}", value, f"[{number[rate['source']]}]", told)
    return table


def hours(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.4f}" if value < 0.1 else f"{value:,.2f}"
