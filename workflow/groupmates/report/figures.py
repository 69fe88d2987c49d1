"""The figures of the report: arrays in, one inline SVG out.

Every figure is one panel of the same width, so that the page can lay them out beside or below each
other and the letters stay legible on a narrow screen. Colours are those of Okabe and Ito; the
baseline and the pool are grey. Equal arrays give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from groupmates.report.words import short

WIDTH_INCHES = 5.0
MOST_VECTOR_POINTS = 5_000  # more points of a scatter become an image inside the SVG
GREY, POOL_GREY, LINE_GREY = "#666666", "#c8c8c8", "#333333"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MARKERS = "osD^vP"
STYLE = {
    "font.size": 10.0,
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "axes.edgecolor": "#888888",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "groupmates",
}

Curve = tuple[np.ndarray, np.ndarray]
Interval = Sequence[float] | None


def palette(methods: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour per method; the baseline is grey."""
    others = [m for m in methods if m != baseline]
    colours = {m: OKABE_ITO[i % len(OKABE_ITO)] for i, m in enumerate(others)}
    return {**colours, baseline: GREY}


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
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(f"held-out loss minus that of {baseline} (nats)")
        _legend(axes)
    return svg(figure, "differences")


def loss_curves(curves: dict[str, list[Curve]], colours: dict[str, str]) -> str:
    """Held-out loss against training tokens: a thin line per seed, a thick one for their mean."""
    with panel("loss") as (figure, axes):
        for number, (method, of_seeds) in enumerate(curves.items()):
            tokens = of_seeds[0][0]
            losses = np.stack([np.interp(tokens, *curve) for curve in of_seeds])
            mark = {"marker": MARKERS[number % len(MARKERS)], "ms": 4.5, "mec": "white"}
            if len(losses) > 1:
                axes.plot(tokens, losses.T, color=colours[method], lw=0.7, alpha=0.6)
            axes.plot(
                tokens, losses.mean(0), color=colours[method], lw=2, label=short(method, 20), **mark
            )
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.set_xlabel("training tokens")
        axes.set_ylabel("held-out loss (nats per token)")
        _legend(axes)
    return svg(figure, "loss")


def label_histogram(rounds: dict[str, np.ndarray]) -> str:
    """Share of the oracle influences (nats) per bin, a step line per round of rollouts."""
    values = np.concatenate(list(rounds.values()))
    factor, unit = _scale(values)
    low, high = np.percentile(values, [0.1, 99.9]) * factor
    edges = np.linspace(low, high if high > low else low + 1, 50)
    with panel("labels") as (figure, axes):
        for name, colour in zip(rounds, OKABE_ITO, strict=False):
            clipped = np.clip(rounds[name] * factor, edges[0], edges[-1])
            share = np.histogram(clipped, edges)[0] / len(clipped)
            axes.stairs(100 * share, edges, color=colour, lw=1.6, label=f"{name} rollouts")
        axes.axvline(0, color=LINE_GREY, lw=0.8)
        axes.set_xlabel(f"oracle influence ({unit})")
        axes.set_ylabel("share of labels (%)")
        _legend(axes)
    return svg(figure, "labels")


def labels_by_position(rounds: dict[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Rounds of (step, influence in nats): quartiles in the box, whiskers from 5 to 95 %."""
    factor, unit = _scale(np.concatenate([influence for _, influence in rounds.values()]))
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
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("position in the rollout")
        axes.set_ylabel(f"oracle influence ({unit})")
        _legend(axes)
    return svg(figure, "positions")


def predictions(predicted: np.ndarray, oracle: np.ndarray, step: np.ndarray, name: str) -> str:
    """Predicted against oracle influence (nats), coloured by position in the rollout."""
    factor, unit = _scale(oracle)
    with panel(name, 3.9) as (figure, axes):
        points = axes.scatter(
            predicted * factor,
            oracle * factor,
            c=step,
            cmap="viridis",
            s=9,
            lw=0,
            alpha=0.8,
            rasterized=len(step) > MOST_VECTOR_POINTS,
        )
        # the diagonal where both axes have values, without widening them
        low = max(predicted.min(), oracle.min()) * factor
        high = min(predicted.max(), oracle.max()) * factor
        axes.plot([low, high], [low, high], color=LINE_GREY, lw=1, ls="--", label="equal")
        bar = figure.colorbar(points, ax=axes, pad=0.02, aspect=30)
        bar.set_label("position in the rollout")
        bar.solids.set_rasterized(False) if bar.solids is not None else None
        bar.locator = MaxNLocator(integer=True)
        bar.update_ticks()
        axes.set_xlabel(f"predicted influence ({unit})")
        axes.set_ylabel(f"oracle influence ({unit})")
        _legend(axes)
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
        _legend(axes)
    return svg(figure, "sources")


def length_shares(edges: np.ndarray, shares: dict[str, np.ndarray], colours: dict[str, str]) -> str:
    """Share (0 to 1) of the documents per length bin; `edges` in tokens. The first is the pool."""
    with panel("lengths") as (figure, axes):
        for number, (name, share) in enumerate(shares.items()):
            look = {"fill": True, "color": colours[name]} if number == 0 else {"lw": 1.7}
            axes.stairs(100 * share, edges, label=short(name, 20), **{"color": colours[name], **look})
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5), numticks=20))
        axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.minorticks_off()
        axes.set_xlabel("length of the document (tokens, log scale)")
        axes.set_ylabel("share of documents (%)")
        _legend(axes)
    return svg(figure, "lengths")


def cluster_shares(
    influence: np.ndarray, shares: dict[str, np.ndarray], colours: dict[str, str]
) -> str:
    """Share (0 to 1) of each cluster's documents that is kept, against its mean influence."""
    points = len(influence) * len(shares)
    with panel("clusters") as (figure, axes):
        for number, (name, share) in enumerate(shares.items()):
            axes.plot(
                influence,
                100 * share,
                MARKERS[number % len(MARKERS)],
                color=colours[name],
                ms=4.5 if points < 1000 else 2.5,
                mew=0,
                alpha=0.75,
                label=short(name, 20),
                rasterized=points > MOST_VECTOR_POINTS,
            )
        axes.set_ylim(-4, 104)
        axes.set_xlabel("mean individual influence of the cluster (standardised)")
        axes.set_ylabel("share of its documents kept (%)")
        _legend(axes)
    return svg(figure, "clusters")


def stage_seconds(stages: Sequence[str], seconds: Sequence[float]) -> str:
    """Horizontal bars: time per stage, summed over its jobs, in the unit that fits the longest."""
    longest = max(seconds, default=0.0)
    divisor, unit = next(
        (d, u) for d, u in ((3600, "hours"), (60, "minutes"), (1, "seconds")) if longest > 2 * d or d == 1
    )
    with panel("times", 1.0 + 0.3 * len(stages)) as (figure, axes):
        axes.barh(range(len(stages)), np.array(seconds) / divisor, 0.65, color=OKABE_ITO[0])
        axes.set_yticks(range(len(stages)), [short(s, 24) for s in stages])
        axes.set_ylim(len(stages) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"time, summed over jobs ({unit})")
    return svg(figure, "times")


@contextmanager
def panel(name: str, height_inches: float = 3.4) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one set of axes, whatever the user's matplotlib settings are."""
    with style.context(["default", STYLE]):
        figure = Figure((WIDTH_INCHES, height_inches), dpi=150, layout="constrained")
        axes = figure.add_subplot()
        axes.set_label(name)
        yield figure, axes


def svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element for an HTML page, its ids made unique on the page by `name`."""
    buffer = io.StringIO()
    with style.context(["default", STYLE]):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))
    text = re.sub(
        r' id="([^"]+)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", text
    )
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    text = re.sub(r"(\d\.\d\d)\d+", r"\1", text)  # a hundredth of a point is fine enough
    return text.strip()


def _legend(axes: Axes) -> None:
    """Names above the axes, where they hide nothing."""
    names = axes.get_legend_handles_labels()[1]
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=min(len(names), 3),
        borderaxespad=0.2,
        handlelength=1.4,
        columnspacing=1.2,
    )


def _scale(values: np.ndarray) -> tuple[float, str]:
    """Factor and unit that bring influences in nats to numbers between 0.1 and 100."""
    size = float(np.percentile(np.abs(values), 95))
    if size >= 0.1 or size == 0:
        return 1.0, "nats"
    return (1e3, "10⁻³ nats") if size >= 1e-4 else (1e6, "10⁻⁶ nats")


def _thousands(value: float, _: object) -> str:
    for divisor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{value / divisor:g}{letter}"
    return f"{value:g}"
