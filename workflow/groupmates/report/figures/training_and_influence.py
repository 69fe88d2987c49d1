"""The figures of the report: arrays in, one inline SVG out.

Every figure is one panel of the same width. The page can lay them out beside or below each other,
and the letters stay legible on a narrow screen. Equal arrays give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from groupmates.formatting import interval, short
from groupmates.maths.calibration import Calibration
from groupmates.report.data.reading import Curve
from groupmates.report.figures.canvas import (
    GREY,
    LINE_GREY,
    OKABE_ITO,
    drawn,
    panel,
    scale,
    thousands,
    time_unit,
)

MOST_WRITTEN = 3  # intervals that are written beside the curves
FEW_TICKS = 6  # of numbers as long as −0.025
MOST_VECTOR_POINTS = 5_000  # more points of a scatter become an image inside the SVG
MARKERS = "osD^vP"

Interval = Sequence[float] | None


@dataclass(frozen=True)
class Difference:
    """A method's held-out loss minus the baseline's, nats; `single`: what the interval is of."""

    method: str
    mean: float
    interval: Interval
    by_example: Interval = None
    single: Sequence[float] = ()


@drawn
def differences(
    rows: Sequence[Difference], baseline: str, colours: dict[str, str], over: str = "seeds"
) -> Axes:
    """Best first, as they are given; `over`: what is repeated, seeds or runs."""
    axes = panel(
        "differences", 1.5 + 0.5 * len(rows), x=f"held-out loss minus that of {baseline} (nats)"
    )
    for y, row in enumerate(rows):
        colour = colours[row.method]
        if row.interval is not None:
            axes.plot(row.interval, [y - 0.1] * 2, color=colour, lw=4, solid_capstyle="butt")
        if row.by_example is not None:
            axes.plot(row.by_example, [y + 0.16] * 2, color=colour, lw=1.2)
        heights = [y - 0.33] * len(row.single)
        axes.plot(row.single, heights, "o", color=colour, mec="none", ms=4, alpha=0.7)
        axes.plot(row.mean, y - 0.1, "o", color=colour, mec="white", ms=8)
    axes.axvline(0, color=LINE_GREY, lw=1)
    axes.plot([], [], color=GREY, lw=4, label=f"over {over}")
    if any(row.single for row in rows):
        axes.plot([], [], "o", color=GREY, mec="none", ms=4, label=f"single {over}")
    if any(row.by_example for row in rows):
        axes.plot([], [], color=GREY, lw=1.2, label="over examples")
    axes.set_yticks(range(len(rows)), [short(row.method, 20) for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.grid(axis="y", visible=False)
    return axes


@drawn
def loss_curves(curves: dict[str, list[Curve]], colours: dict[str, str]) -> Axes:
    """Held-out loss against training tokens: a thin line per seed, a thick one for their mean."""
    axes = panel("loss", x="training tokens", y="held-out loss (nats per token)")
    by_seed(axes, curves, colours)
    return axes


@drawn
def loss_gaps(
    curves: dict[str, list[Curve]],
    baseline: str,
    intervals: dict[str, Interval],
    colours: dict[str, str],
) -> Axes:
    """Held-out loss minus the baseline's mean over seeds (nats) against training tokens.

    `intervals` of the differences after the last token stand beside the curves' ends, in numbers
    where they are few.
    """
    tokens = curves[baseline][0][0]
    level = np.mean([np.interp(tokens, *curve) for curve in curves[baseline]], axis=0)
    gaps = {
        m: [(t, loss - np.interp(t, tokens, level)) for t, loss in c] for m, c in curves.items()
    }
    axes = panel("gap", x="training tokens", y=f"loss minus that of {short(baseline, 20)} (nats)")
    axes.axhline(0, color=LINE_GREY, lw=0.8)
    by_seed(axes, gaps, colours)
    for number, (method, bounds) in enumerate(intervals.items()):
        if bounds is None:
            continue
        last = tokens[-1] * (1.035 + 0.03 * number)
        axes.plot([last, last], bounds, color=colours[method], lw=5, solid_capstyle="butt")
        if len(intervals) > MOST_WRITTEN:
            continue
        axes.annotate(
            f"{interval(list(bounds), 3)}",
            (last, min(bounds)),
            (0, -5),
            textcoords="offset points",
            ha="right",
            va="top",
            size=9,
            color=colours[method],
        )
    axes.margins(y=0.12)
    return axes


@drawn
def label_histogram(rounds: dict[str, np.ndarray]) -> Axes:
    """Share of the oracle influences (nats) per bin, a step line per round of rollouts."""
    values = np.concatenate(list(rounds.values()))
    factor, unit = scale(values)
    low, high = np.percentile(values, [0.1, 99.9]) * factor
    edges = np.linspace(low, high if high > low else low + 1, 50)
    axes = panel("labels", x=f"oracle influence ({unit})", y="share of labels (%)")
    for name, colour in zip(rounds, OKABE_ITO, strict=False):
        clipped = np.clip(rounds[name] * factor, edges[0], edges[-1])
        share = np.histogram(clipped, edges)[0] / len(clipped)
        axes.stairs(100 * share, edges, color=colour, lw=1.6, label=f"{name} rollouts")
    axes.axvline(0, color=LINE_GREY, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    return axes


@drawn
def labels_by_position(rounds: dict[str, tuple[np.ndarray, np.ndarray]]) -> Axes:
    """Rounds of (step, influence in nats): quartiles in the box, whiskers from 5 to 95 %."""
    factor, unit = scale(np.concatenate([influence for _, influence in rounds.values()]))
    width = 0.7 / len(rounds)
    axes = panel("positions", x="position in the rollout", y=f"oracle influence ({unit})")
    for number, (name, (step, influence)) in enumerate(rounds.items()):
        colour, positions = OKABE_ITO[number], np.unique(step)
        names = ("whislo", "q1", "med", "q3", "whishi")
        boxes = []
        for position in positions:
            marks = np.percentile(influence[step == position] * factor, [5, 25, 50, 75, 95])
            boxes.append(dict(zip(names, marks.tolist(), strict=True)))
        axes.bxp(
            boxes,
            positions=positions + (number - (len(rounds) - 1) / 2) * width,
            widths=0.8 * width,
            showfliers=False,
            showcaps=False,
            patch_artist=True,
            boxprops={"facecolor": colour, "edgecolor": colour},
            whiskerprops={"color": colour, "lw": 1.2},
            medianprops={"color": "white", "lw": 1.6},
            manage_ticks=False,
        )
        axes.plot([], [], "s", color=colour, ms=8, label=f"{name} rollouts")
    axes.axhline(0, color=LINE_GREY, lw=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
    axes.grid(axis="x", visible=False)
    return axes


@drawn
def predictions(predicted: np.ndarray, oracle: np.ndarray, step: np.ndarray, name: str) -> Axes:
    """Predicted against oracle influence (nats), coloured by position in the rollout."""
    factor, unit = scale(oracle)
    positions = int(step.max())
    axes = panel(name, 3.9, x=f"predicted influence ({unit})", y=f"oracle influence ({unit})")
    points = axes.scatter(
        predicted * factor,
        oracle * factor,
        c=step,
        cmap=colormaps["viridis"].resampled(positions),
        vmin=0.5,
        vmax=positions + 0.5,
        s=9,
        lw=0,
        rasterized=len(step) > MOST_VECTOR_POINTS,
    )
    # the diagonal where both axes have values, without widening them
    low = max(predicted.min(), oracle.min()) * factor
    high = min(predicted.max(), oracle.max()) * factor
    axes.plot([low, high], [low, high], color=LINE_GREY, lw=1, ls="--", label="equal")
    bar = axes.figure.colorbar(points, ax=axes, pad=0.02, aspect=30)
    bar.set_label("position in the rollout")
    bar.ax.yaxis.set_major_locator(MaxNLocator(12, integer=True))
    bar.ax.tick_params(length=0)
    bar.outline.set_visible(False)
    axes.locator_params(axis="x", nbins=FEW_TICKS)
    return axes


@drawn
def calibration(models: dict[str, Calibration]) -> Axes:
    """Mean oracle influence (nats) against mean predicted influence, per tenth of the predictions."""
    factor, unit = scale(np.concatenate([c.outcome_B for c in models.values()]))
    ends = np.concatenate([c.predicted_B for c in models.values()]) * factor
    axes = panel(
        "calibration",
        3.9,
        x=f"mean predicted influence ({unit})",
        y=f"mean oracle influence ({unit})",
    )
    axes.plot([ends.min(), ends.max()], [ends.min(), ends.max()], color=LINE_GREY, lw=1, ls="--")
    for number, (name, c) in enumerate(models.items()):
        colour = OKABE_ITO[number]
        axes.vlines(c.predicted_B * factor, c.low_B * factor, c.high_B * factor, colour, lw=1.6)
        axes.plot(
            c.predicted_B * factor,
            c.outcome_B * factor,
            MARKERS[number],
            color=colour,
            mec="white",
            ms=7,
            label=f"{name} model",
        )
    axes.locator_params(axis="x", nbins=FEW_TICKS)
    return axes


@drawn
def groups(rows: Sequence[dict[str, Any]]) -> Axes:
    """Rank correlation of predicted and true group influence, with intervals, by size of the sets.

    A colour per relation, sets of near neighbours dashed and hollow; side by side at each size.
    """
    sizes = sorted({row["size"] for row in rows})
    names = {"none": "no relation", "unit": "alpha = beta = 1", "fitted": "fitted relation"}
    names = {name: shown for name, shown in names.items() if name in rows[0]["spearman"]}
    axes = panel("groups", 3.9, x="documents in the set", y="Spearman, predicted and true")
    for k, (kind, style) in enumerate((("random", "-"), ("near", "--"))):
        of_kind = sorted((r for r in rows if r["kind"] == kind), key=lambda r: r["size"])
        for p, (name, shown) in enumerate(names.items()):
            found = [row["spearman"][name] for row in of_kind]
            x = np.arange(len(sizes)) + (3 * k + p - 2.5) * 0.12
            low, high = np.array([f["interval"] for f in found]).T
            axes.vlines(x, low, high, OKABE_ITO[p], lw=1.4)
            axes.plot(
                x,
                [f["value"] for f in found],
                style,
                marker=MARKERS[p],
                color=OKABE_ITO[p],
                mfc="white" if k else OKABE_ITO[p],
                lw=0.8,
                ms=5.5,
                label=f"{shown}, {kind}",
            )
    axes.axhline(0, color=LINE_GREY, lw=0.8)
    axes.set_xticks(range(len(sizes)), [f"{size:,}" for size in sizes])
    axes.grid(axis="x", visible=False)
    return axes


@drawn
def stage_seconds(stages: Sequence[str], seconds: Sequence[float]) -> Axes:
    """Horizontal bars: time per stage, summed over its jobs, in the unit that fits the longest."""
    divisor, unit = time_unit(max(seconds))
    axes = panel("times", 1.0 + 0.3 * len(stages), x=f"time, summed over jobs ({unit})")
    axes.barh(range(len(stages)), np.array(seconds) / divisor, 0.65, color=OKABE_ITO[0])
    axes.set_yticks(range(len(stages)), [short(s, 24) for s in stages])
    axes.set_ylim(len(stages) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return axes


def by_seed(axes: Axes, curves: dict[str, list[Curve]], colours: dict[str, str]) -> None:
    """A thin line per seed and a thick one for their mean, per method, against training tokens."""
    for number, (method, of_seeds) in enumerate(curves.items()):
        tokens = of_seeds[0][0]
        losses = np.stack([np.interp(tokens, *curve) for curve in of_seeds])
        if len(losses) > 1:
            axes.plot(tokens, losses.T, color=colours[method], lw=0.8, alpha=0.6)
        axes.plot(
            tokens,
            losses.mean(0),
            marker=MARKERS[number % len(MARKERS)],
            color=colours[method],
            lw=2,
            ms=5.5,
            mec="white",
            label=short(method, 20),
        )
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(thousands))
