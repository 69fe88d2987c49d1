"""The figures of what was kept, and of the pool it was kept from: arrays in, one inline SVG out.

As in `figures`, every figure is one panel of the same width, and equal arrays give equal bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from groupmates.formatting import short
from groupmates.report.figures.canvas import OKABE_ITO, drawn, panel, thousands
from groupmates.report.figures.training_and_influence import MARKERS, MOST_VECTOR_POINTS

MOST_SINGLE_CLUSTERS = 300  # more hide each other
HELPFUL_HARMFUL = ("#0072B2", "#dcdcdc", "#D55E00")  # told apart by every kind of eye


@drawn
def source_shares(
    sources: Sequence[str], shares: dict[str, np.ndarray], colours: dict[str, str]
) -> Axes:
    """Horizontal bars: per source, its share (0 to 1) of the pool and of each selection."""
    height = 0.8 / len(shares)
    rows = np.arange(len(sources))
    axes = panel(
        "sources", 1.1 + len(sources) * max(0.3, 0.11 * len(shares)), x="share of tokens (%)"
    )
    for number, (name, share) in enumerate(shares.items()):
        offset = (number - (len(shares) - 1) / 2) * height
        axes.barh(rows + offset, 100 * share, height, color=colours[name], label=short(name, 20))
    axes.set_yticks(rows, [short(s, 24) for s in sources])
    axes.set_ylim(len(sources) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return axes


@drawn
def length_shares(
    edges: np.ndarray, shares: dict[str, np.ndarray], colours: dict[str, str]
) -> Axes:
    """Share (0 to 1) of the documents per length bin; `edges` in tokens. The first is the pool."""
    axes = panel(
        "lengths", x="length of the document (tokens, log scale)", y="share of documents (%)"
    )
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
    return axes


@drawn
def cluster_shares(
    influence: np.ndarray, shares: dict[str, np.ndarray], colours: dict[str, str]
) -> Axes:
    """Share (0 to 1) of each cluster's documents that is kept, against its mean influence.

    Many clusters fade behind a line: the mean over each fiftieth of them, by influence.
    """
    many = len(influence) > MOST_SINGLE_CLUSTERS
    neighbours = np.array_split(np.argsort(influence, kind="stable"), 50)
    axes = panel(
        "clusters",
        x="mean individual influence of the cluster (standardised)",
        y="share of its documents kept (%)",
    )
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
    return axes


@drawn
def pool_map(
    place_P2: np.ndarray, influence_P: np.ndarray, middle: float, reach: float, kept_P: np.ndarray
) -> Axes:
    """Documents by two coordinates, coloured by influence from middle - reach to middle + reach.

    What was kept has full colour, the rest is pale.
    """
    colours = LinearSegmentedColormap.from_list("influence", HELPFUL_HARMFUL)
    size = float(np.clip(30_000 / len(place_P2), 1.5, 14))
    axes = panel("map", 4.4)
    for among_P, alpha in ((~kept_P, 0.35), (kept_P, 1.0)):
        points = axes.scatter(
            place_P2[among_P, 0],
            place_P2[among_P, 1],
            c=influence_P[among_P],
            cmap=colours,
            vmin=middle - reach,
            vmax=middle + reach,
            s=size,
            lw=0,
            alpha=alpha,
            rasterized=len(place_P2) > MOST_VECTOR_POINTS,
        )
    bar = axes.figure.colorbar(points, ax=axes, orientation="horizontal", pad=0.02, aspect=40)
    bar.set_label("individual influence (standardised): left helps, right harms")
    bar.outline.set_visible(False)
    axes.set_aspect("equal", "datalim")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    return axes


@drawn
def resemblances(groups: dict[str, np.ndarray]) -> Axes:
    """Share of the documents by cosine to the nearest selected document, a line per group."""
    low = min(
        0.9, float(np.floor(20 * np.min([np.quantile(g, 0.02) for g in groups.values()])) / 20)
    )
    edges = np.linspace(low, 1, 41)
    axes = panel(
        "resemblances", 3.2, x="cosine to the nearest selected document", y="share of documents (%)"
    )
    for (name, cosine), colour in zip(groups.items(), OKABE_ITO, strict=False):
        share = np.histogram(np.clip(cosine, low, 1), edges)[0] / len(cosine)
        axes.stairs(100 * share, edges, color=colour, lw=1.8, label=name)
    axes.set_xlim(low, 1.0)
    return axes
