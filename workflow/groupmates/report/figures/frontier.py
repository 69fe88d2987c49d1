"""Figures of the frontier page: held-out loss and tasks, against tokens and against compute."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes

from groupmates.formatting import short
from groupmates.report.data.reading import Curve
from groupmates.report.figures.canvas import drawn, panel
from groupmates.report.figures.training_and_influence import MARKERS, by_seed


@drawn
def losses(name: str, x: str, curves: dict[str, list[Curve]], colours: dict[str, str]) -> Axes:
    """Held-out loss against `x`: a thin line per seed, a thick one for their mean.

    The axis ends where a quarter of the points is over: new weights begin far above all others.
    """
    axes = panel(name, x=x, y="held-out loss (nats per token)")
    by_seed(axes, curves, colours)
    later = [nats[len(nats) // 4 :] for of_seeds in curves.values() for _, nats in of_seeds]
    low, high = min(nats.min() for nats in later), max(nats.max() for nats in later)
    room = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - room, high + room)
    return axes


@drawn
def ends(
    name: str,
    x: str,
    y: str,
    found: dict[str, tuple[float, Sequence[float]]],
    colours: dict[str, str],
) -> Axes:
    """A value of each seed's final model, and their mean, above what a training took."""
    axes = panel(name, x=x, y=y)
    for number, (method, (spent, values)) in enumerate(found.items()):
        mean, colour = sum(values) / len(values), colours[method]
        if len(values) > 1:
            axes.plot([spent] * len(values), values, "o", color=colour, mec="none", ms=4, alpha=0.7)
        marker = MARKERS[number % len(MARKERS)]
        label = short(method, 20)
        axes.plot(spent, mean, marker, color=colour, mec="white", ms=8, label=label)
    axes.margins(0.15)
    return axes
