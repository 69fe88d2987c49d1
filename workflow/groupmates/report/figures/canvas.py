"""The paper that the report's figures are drawn on: one look, one width, and SVG for an HTML page.

Letters are text in the SVG, so that they are small, can be searched and follow the page's font.
Colours are those of Okabe and Ito; the baseline and the pool are grey.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from functools import wraps
from typing import ParamSpec

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH_INCHES = 5.0
GREY, POOL_GREY, LINE_GREY = "#666666", "#c8c8c8", "#333333"
OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
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
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "svg.fonttype": "none",
    "svg.hashsalt": "groupmates",
}


def palette(methods: Sequence[str], baseline: str) -> dict[str, str]:
    """A colour per method; the baseline is grey."""
    others = [m for m in methods if m != baseline]
    colours = {m: OKABE_ITO[i % len(OKABE_ITO)] for i, m in enumerate(others)}
    return {**colours, baseline: GREY}


P = ParamSpec("P")


def drawn(draw: Callable[P, Axes]) -> Callable[P, str]:
    """Let a function that draws on a `panel` return an SVG element for an HTML page instead.

    It is the same whatever the user's matplotlib settings are. What has a label stands in a legend.
    """

    @wraps(draw)
    def element(*args: P.args, **kwargs: P.kwargs) -> str:
        with style.context(["default", STYLE]):
            axes = draw(*args, **kwargs)
            _legend(axes)
            return _svg(axes)

    return element


def panel(name: str, height_inches: float = 3.4, *, x: str = "", y: str = "") -> Axes:
    """The only axes of a new figure; `name` makes the ids of its SVG unique on the page."""
    figure = Figure((WIDTH_INCHES, height_inches), dpi=150, layout="constrained")
    return figure.add_subplot(label=name, xlabel=x, ylabel=y)


def _svg(axes: Axes) -> str:
    buffer, name, figure = io.StringIO(), axes.get_label(), axes.get_figure(root=True)
    assert figure is not None
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing, transparent=True)
    text = buffer.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, count=1, flags=re.DOTALL)
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", text, count=1)
    text = text.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', text))

    def renamed(found: re.Match[str]) -> str:
        return f' id="{name}-{found[1]}"' if found[1] in used else ""

    text = re.sub(r' id="([^"]+)"', renamed, text)
    text = re.sub(r'(url\(|href=")#', rf"\1#{name}-", text)
    # Coordinates are cut to a hundredth of a point: half the bytes, the same picture.
    return re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), text).strip()


def _legend(axes: Axes) -> None:
    """Names above the axes, where they hide nothing and may be wider than they."""
    handles, names = axes.get_legend_handles_labels()
    if names:
        longest = max(map(len, names))
        columns = 3 if longest <= 12 else 2 if longest <= 30 else 1
        axes.figure.legend(
            handles,
            names,
            loc="outside upper left",
            ncols=min(len(names), columns),
            borderaxespad=0.2,
            handlelength=1.4,
            columnspacing=1.2,
        )


def alone(drawn: str | None) -> str:
    """An SVG element as a file of its own; where there is none, the words that say so."""
    if drawn is None:
        drawn = (
            '<svg viewBox="0 0 360 60"><text x="180" y="34" text-anchor="middle" font-size="14">'
            "This run has nothing to draw here.</text></svg>"
        )
    outer = '<svg xmlns="http://www.w3.org/2000/svg" style="background: white" '
    return drawn.replace("<svg ", outer, 1) + "\n"


def scale(values: np.ndarray) -> tuple[float, str]:
    """Factor and unit that bring influences in nats to numbers between 0.1 and 100."""
    size = float(np.percentile(np.abs(values), 95))
    if size >= 0.1 or size == 0:
        return 1.0, "nats"
    return (1e3, "10⁻³ nats") if size >= 1e-4 else (1e6, "10⁻⁶ nats")


def time_unit(seconds: float) -> tuple[int, str]:
    """Seconds and name of the unit in which a time is more than two, or else of the second."""
    units = ((3600, "hours"), (60, "minutes"))
    return next(((length, name) for length, name in units if seconds > 2 * length), (1, "seconds"))


def thousands(value: float, _: object) -> str:
    for divisor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= divisor:
            return f"{value / divisor:g}{letter}"
    return f"{value:g}"
