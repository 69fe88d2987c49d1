"""A plan as text: one line per stage, then where every rate came from."""

from __future__ import annotations

from typing import Any

COLUMNS = (
    ("stage", 18),
    ("jobs", 7),
    ("GPU-hours", 10),
    ("CPU-hours", 10),
    ("wall time", 11),
    ("memory", 9),
    ("GPU mem.", 9),
    ("disk", 9),
    ("pretraining", 12),
)


def text(plan: dict[str, Any]) -> str:
    """The plan for a terminal, with its last line ended."""
    assumed = any(s["basis"] == "assumed" for s in plan["sources"])
    where = f"{plan['gpus']} GPUs and " if plan["gpus"] else ""
    lines = [f"Plan of the run {plan['run']} on {where}{plan['cores']} cores"]
    if assumed:
        lines.append("ASSUMED rates are among these figures: arithmetic, not measured.")
    lines += ["", header(), *(row(name, s, plan) for name, s in plan["stages"].items())]
    lines += [total(plan), ""]
    lines += [
        "Stages are counted one after another, each with all its jobs at once where they fit."
    ]
    lines += compared(plan)
    lines += ["", *what_is_missing(plan), *origins(plan)]
    return "\n".join(lines) + "\n"


def header() -> str:
    cells = [f"{name:<{w}}" if i == 0 else f"{name:>{w}}" for i, (name, w) in enumerate(COLUMNS)]
    return "".join(cells)


def line(cells: list[str]) -> str:
    widths = [width for _, width in COLUMNS]
    padded = (f"{cell:>{width}}" for cell, width in zip(cells[1:], widths[1:], strict=True))
    return f"{cells[0]:<{widths[0]}}" + "".join(padded)


def row(name: str, stage: dict[str, Any], plan: dict[str, Any]) -> str:
    return line(
        [
            name,
            f"{stage['jobs']:,}",
            hours(stage["gpu_hours"]) if stage["gpu"] else "-",
            hours(stage["cpu_hours"]),
            duration(stage["wall_seconds"]),
            size(stage["host_bytes"]),
            size(stage["gpu_bytes"]) if stage["gpu"] else "-",
            size(stage["disk_bytes"]),
            share(stage, plan),
        ]
    )


def total(plan: dict[str, Any]) -> str:
    sums, against = plan["total"], plan["pretraining"]
    return line(
        [
            "all" if not plan["missing"] else "all but unknown",
            f"{sums['jobs']:,}",
            hours(sums["gpu_hours"]) if plan["gpus"] else "-",
            hours(sums["cpu_hours"]),
            duration(sums["wall_seconds"]),
            "",
            "",
            size(sums["disk_bytes"]),
            f"{against['share']:.1%}" if against else "-",
        ]
    )


def share(stage: dict[str, Any], plan: dict[str, Any]) -> str:
    against = plan["pretraining"]
    cost = stage["gpu_hours"] if plan["gpus"] else stage["cpu_hours"]
    if not against or cost is None:
        return "-"
    return f"{cost / against['hours']:.1%}" if cost else "-"


def compared(plan: dict[str, Any]) -> list[str]:
    against = plan["pretraining"]
    if not against:
        return ["plan.pretraining is not set: no share of its cost."]
    unit = "GPU-hours" if plan["gpus"] else "CPU-hours"
    return [
        f"Pretraining: {against['hours']:,.1f} {unit} ({against['basis']}); without the training "
        f"that evaluates, the run costs {against['share_without_evaluation']:.1%} of it."
    ]


def what_is_missing(plan: dict[str, Any]) -> list[str]:
    if not plan["missing"]:
        return []
    kernels = {k for s in plan["missing"] for k in plan["stages"][s]["unknown_kernels"]}
    lacking = [f"The files of plan.rates lack: {', '.join(sorted(kernels))}."] if kernels else []
    return [
        f"No rate is known for: {', '.join(plan['missing'])}.",
        *lacking,
        "Measure this machine with `make calibrate` (a few minutes; CONFIG=FILE PROFILE=FOLDER as in",
        "the run), or name another run or a file of rates in plan.rates.",
        "",
    ]


def origins(plan: dict[str, Any]) -> list[str]:
    """The sources, then each stage's rates with theirs."""
    found = ["Where the rates come from:"]
    number = {s["name"]: i for i, s in enumerate(plan["sources"], 1)}
    for source in plan["sources"]:
        found.append(
            f"  [{number[source['name']]}] {source['basis'].upper()} {source['name']}, "
            f"{source['date']}, {source['machine']}"
        )
    for name, stage in plan["stages"].items():
        for what, rate in stage["rates"].items():
            value = (
                f"{rate['seconds']:,.1f} s a job beside its work"
                if what == "start"
                else f"{rate['per_second']:,.4g} {what}/s"
                if rate["per_second"]
                else "no work"
            )
            basis = ""
            if rate.get("basis") and rate["basis"] not in (["measured"], ["assumed"]):
                basis = f" ({'; '.join(rate['basis'])})"
            found.append(f"  {name:<18}{value} [{number[rate['source']]}]{basis}")
    sizes = plan["sizes"]
    found.append("Sizes:")
    found.append(
        f"  {sizes['documents']:,} documents in {sizes['files']:,} files, {sizes['tokens']:,.0f} "
        f"tokens and {sizes['text_bytes']:,.0f} bytes each on average"
    )
    found += [f"  {key}: {value}" for key, value in sizes["basis"].items()]
    return found


def hours(value: float | None) -> str:
    if value is None:
        return "no rate"
    if value >= 1e6:
        return f"{value:.1e}"
    return f"{value:,.4f}" if value < 0.1 else f"{value:,.2f}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "no rate"
    if seconds < 100:
        return f"{seconds:.1f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def size(value: float | None) -> str:
    if value is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit != "GB" else f"{value:.1f} GB"
        value /= 1000
    return f"{value:.1f} TB"
