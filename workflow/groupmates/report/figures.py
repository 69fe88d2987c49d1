"""The figures of the report: arrays in, one inline SVG out.

Every figure is one panel of the same width, so that the page can lay them out beside or below each
other and the letters stay legible on a narrow screen. Equal arrays give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from groupmates.report.canvas import (
    GREY,
    LINE_GREY,
    OKABE_ITO,
    legend,
    panel,
    scale,
    svg,
    thousands,
)
from groupmates.report.words import short

MOST_VECTOR_POINTS = 5_000  # more points of a scatter become an image inside the SVG
MOST_SINGLE_CLUSTERS = 300  # more hide each other
MARKERS = "osD^vP"

Curve = tuple[np.ndarray, np.ndarray]  # training tokens, held-out loss in nats
Interval = Sequence[float] | None


def differences(
    rows: Sequence[tuple[str, float, Interval, Interval]], baseline: str, colours: dict[str, str]
) -> str:
    """Rows (method, difference, interval by seed, interval by example), in nats, best first."""
    with panel("differences", 1.5 + 0.5 * len(rows)) as (figure, axes):
        for y, (method, middle, by_seed, by_example) in enumerate(rows):
            colour = colours[method]
            if by_seed is not None:
                axes.plot(by_seed, [y - 0.12] * 2, color=colour, lw=4, solid_capstyle="butt")
            if by_example is not None:
                axes.plot(by_example, [y + 0.14] * 2, color=colour, lw=1.2)
            axes.plot(middle, y - 0.12, "o", color=colour, mec="white", ms=8)
        axes.axvline(0, color=LINE_GREY, lw=1)
        axes.plot([], [], color=GREY, lw=4, label="over seeds")
        axes.plot([], [], color=GREY, lw=1.2, label="over examples")
        axes.set_yticks(range(len(rows)), [short(r[0], 20) for r in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"held-out loss minus that of {baseline} (nats)")
        legend(figure, axes)
    return svg(figure, "differences")


def loss_curves(curves: dict[str, list[Curve]], colours: dict[str, str]) -> str:
    """Held-out loss against training tokens: a thin line per seed, a thick one for their mean."""
    with panel("loss") as (figure, axes):
        _seeds(figure, axes, curves, colours)
        axes.set_ylabel("held-out loss (nats per token)")
    return svg(figure, "loss")


def loss_gaps(curves: dict[str, list[Curve]], baseline: str, colours: dict[str, str]) -> str:
    """Held-out loss minus the baseline's mean over seeds (nats) against training tokens."""
    tokens = curves[baseline][0][0]
    level = np.mean([np.interp(tokens, *curve) for curve in curves[baseline]], axis=0)
    gaps = {
        m: [(t, loss - np.interp(t, tokens, level)) for t, loss in c] for m, c in curves.items()
    }
    with panel("gap") as (figure, axes):
        axes.axhline(0, color=LINE_GREY, lw=0.8)
        _seeds(figure, axes, gaps, colours)
        axes.set_ylabel(f"loss minus that of {short(baseline, 20)} (nats)")
    return svg(figure, "gap")


def label_histogram(rounds: dict[str, np.ndarray]) -> str:
    """Share of the oracle influences (nats) per bin, a step line per round of rollouts."""
    values = np.concatenate(list(rounds.values()))
    factor, unit = scale(values)
    low, high = np.percentile(values, [0.1, 99.9]) * factor
    edges = np.linspace(low, high if high > low else low + 1, 50)
    with panel("labels") as (figure, axes):
        for name, colour in zip(rounds, OKABE_ITO, strict=False):
            clipped = np.clip(rounds[name] * factor, edges[0], edges[-1])
            share = np.histogram(clipped, edges)[0] / len(clipped)
            axes.stairs(100 * share, edges, color=colour, lw=1.6, label=f"{name} rollouts")
        axes.axvline(0, color=LINE_GREY, lw=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"oracle influence ({unit})")
        axes.set_ylabel("share of labels (%)")
        legend(figure, axes)
    return svg(figure, "labels")


def labels_by_position(rounds: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Rounds of (step, influence in nats): quartiles in the box, whiskers from 5 to 95 %."""
    factor, unit = scale(np.concatenate([influence for _, influence in rounds.values()]))
    width = 0.7 / len(rounds)
    with panel("positions") as (figure, axes):
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
        axes.set_xlabel("position in the rollout")
        axes.set_ylabel(f"oracle influence ({unit})")
        legend(figure, axes)
    return svg(figure, "positions")


def predictions(predicted: np.ndarray, oracle: np.ndarray, step: np.ndarray, name: str) -> str:
    """Predicted against oracle influence (nats), coloured by position in the rollout."""
    factor, unit = scale(oracle)
    positions = int(step.max())
    with panel(name, 3.9) as (figure, axes):
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
        bar = figure.colorbar(points, ax=axes, pad=0.02, aspect=30)
        bar.set_label("position in the rollout")
        bar.ax.yaxis.set_major_locator(MaxNLocator(12, integer=True))
        bar.ax.tick_params(length=0)
        bar.outline.set_visible(False)
        axes.set_xlabel(f"predicted influence ({unit})")
        axes.set_ylabel(f"oracle influence ({unit})")
        legend(figure, axes)
    return svg(figure, name)


def source_shares(
    sources: Sequence[str], shares: dict[str, np.ndarray], colours: dict[str, str]
) -> str:
    """Horizontal bars: per source, its share (0 to 1) of the pool and of each selection."""
    height = 0.8 / len(shares)
    rows = np.arange(len(sources))
    with panel("sources", 1.1 + len(sources) * max(0.3, 0.11 * len(shares))) as (figure, axes):
        for number, (name, share) in enumerate(shares.items()):
            offset = (number - (len(shares) - 1) / 2) * height
            axes.barh(
                rows + offset, 100 * share, height, color=colours[name], label=short(name, 20)
            )
        axes.set_yticks(rows, [short(s, 24) for s in sources])
        axes.set_ylim(len(sources) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("share of tokens (%)")
        legend(figure, axes)
    return svg(figure, "sources")


def length_shares(edges: np.ndarray, shares: dict[str, np.ndarray], colours: dict[str, str]) -> str:
    """Share (0 to 1) of the documents per length bin; `edges` in tokens. The first is the pool."""
    with panel("lengths") as (figure, axes):
        for number, (name, share) in enumerate(shares.items()):
            axes.stairs(
                100 * share,
                edges,
                fill=number == 0,
                lw=0 if number == 0 else 1.7,
                color=colours[name],
                label=short(name, 20),
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=20))
        axes.xaxis.set_major_formatter(FuncFormatter(thousands))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.set_xlabel("length of the document (tokens, log scale)")
        axes.set_ylabel("share of documents (%)")
        legend(figure, axes)
    return svg(figure, "lengths")


def cluster_shares(
    influence: np.ndarray, shares: dict[str, np.ndarray], colours: dict[str, str]
) -> str:
    """Share (0 to 1) of each cluster's documents that is kept, against its mean influence.

    Many clusters fade behind a line: the mean over each fiftieth of them, by influence.
    """
    many = len(influence) > MOST_SINGLE_CLUSTERS
    neighbours = np.array_split(np.argsort(influence, kind="stable"), 50)
    with panel("clusters") as (figure, axes):
        for number, (name, share) in enumerate(shares.items()):
            marks = axes.plot(
                influence,
                100 * share,
                MARKERS[number % len(MARKERS)],
                color=colours[name],
                ms=2 if many else 4.5,
                mew=0,
                alpha=0.15 if many else 0.75,
                rasterized=len(influence) * len(shares) > MOST_VECTOR_POINTS,
            )
            if many:
                middle = [influence[near].mean() for near in neighbours]
                level = [100 * share[near].mean() for near in neighbours]
                marks = axes.plot(middle, level, color=colours[name], lw=2)
            marks[0].set_label(short(name, 20))
        axes.set_ylim(-4, 104)
        axes.set_xlabel("mean individual influence of the cluster (standardised)")
        axes.set_ylabel("share of its documents kept (%)")
        legend(figure, axes)
    return svg(figure, "clusters")


def stage_seconds(stages: Sequence[str], seconds: Sequence[float]) -> str:
    """Horizontal bars: time per stage, summed over its jobs, in the unit that fits the longest."""
    units = ((3600, "hours"), (60, "minutes"), (1, "seconds"))
    divisor, unit = next((d, u) for d, u in units if max(seconds) > 2 * d or d == 1)
    with panel("times", 1.0 + 0.3 * len(stages)) as (figure, axes):
        axes.barh(range(len(stages)), np.array(seconds) / divisor, 0.65, color=OKABE_ITO[0])
        axes.set_yticks(range(len(stages)), [short(s, 24) for s in stages])
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"time, summed over jobs ({unit})")
    return svg(figure, "times")


def _seeds(
    figure: Figure, axes: Axes, curves: dict[str, list[Curve]], colours: dict[str, str]
) -> None:
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
    axes.set_xlabel("training tokens")
    legend(figure, axes)
