"""When did what run: one bar per attempt at a job, packed into lanes stage by stage."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from groupmates.formatting import count, duration, plural, short
from groupmates.records import jobs
from groupmates.report.data.reading import Records
from groupmates.report.figures.canvas import LINE_GREY, OKABE_ITO, drawn, panel, time_unit

HOW = {
    "done": OKABE_ITO[0],
    "done, went on from kept progress": OKABE_ITO[2],
    "killed or stopped": OKABE_ITO[5],
    "failed": OKABE_ITO[1],
}
LANE_INCHES, LABEL_INCHES, MOST_INCHES = 0.13, 0.2, 4.0  # MOST_INCHES: of all lanes together
# A pause in which nothing runs is cut out of the axis where it is longer than both.
PAUSE_SECONDS, PAUSE_SHARE = 60.0, 0.1
CUT_SHARE = 0.05  # of the width, that a pause which is cut out still has
LEAST_SHARE = 0.004  # of the width, that the shortest bar still has
SEAM_SHARE = 0.0015  # of the width, between a bar and what follows at once


@dataclass(frozen=True)
class Bar:
    """One attempt; seconds since the first one began."""

    stage: str
    job: str
    start: float
    end: float
    how: str


def bars_of(records: Records) -> list[Bar]:
    """Every attempt at every job, by its start; an attempt that nobody ended ends when last heard."""
    first = min((a["started"] for attempts in records.values() for a in attempts), default=0.0)
    bars = []
    for job, attempts in records.items():
        for a in attempts:
            start, end = a["started"] - first, (a["ended"] or a["heard"]) - first
            bars.append(Bar(jobs.stage_of(a), job, start, end, _how(a)))
    return sorted(bars, key=lambda bar: (bar.start, bar.end, bar.job))


def _how(attempt: jobs.Attempt) -> str:
    if attempt["state"] == "done":
        return "done, went on from kept progress" if jobs.resumed(attempt) else "done"
    return "failed" if attempt["state"] == "failed" else "killed or stopped"


def lanes(bars: Sequence[Bar]) -> dict[str, dict[str, int]]:
    """stage -> job -> lane: as few lanes as jobs overlap, a job's attempts all in one of them."""
    spans: dict[tuple[str, str], tuple[float, float]] = {}
    for bar in bars:
        start, end = spans.get((bar.stage, bar.job), (bar.start, bar.end))
        spans[bar.stage, bar.job] = min(start, bar.start), max(end, bar.end)
    found: dict[str, dict[str, int]] = {}
    free: dict[str, list[float]] = {}  # stage -> when each of its lanes becomes free
    for (stage, job), (start, end) in sorted(spans.items(), key=lambda item: (item[1], item[0])):
        ends = free.setdefault(stage, [])
        lane = next((i for i, until in enumerate(ends) if until <= start), len(ends))
        ends[lane : lane + 1] = [end]
        found.setdefault(stage, {})[job] = lane
    return found


def pauses(bars: Sequence[Bar]) -> list[tuple[float, float]]:
    """Start and end of the times in which nothing ran and that are too long to draw."""
    gaps, until, busy = [], 0.0, 0.0
    for bar in bars:
        if bar.start > until:
            gaps.append((until, bar.start))
        busy += max(0.0, bar.end - max(bar.start, until))
        until = max(until, bar.end)
    least = max(PAUSE_SECONDS, PAUSE_SHARE * busy)
    return [(start, end) for start, end in gaps if end - start > least]


def finding(bars: Sequence[Bar]) -> str:
    """What the figure shows, in a sentence or two."""
    jobs, how = {bar.job for bar in bars}, Counter(bar.how for bar in bars)
    wall = max(bar.end for bar in bars)
    paused = _length(pauses(bars))
    text = (
        f"{plural(len(jobs), 'job')} ran in {plural(len(bars), 'attempt')} within {duration(wall)}"
    )
    text += f"; for {duration(paused)} nothing ran." if paused else "."
    lost = [f"{count(how[h])} {h}" for h in ("failed", "killed or stopped") if how[h]]
    if lost:
        text += f" Attempts that ended otherwise than done: {', '.join(lost)}."
    if how["done, went on from kept progress"]:
        number = count(how["done, went on from kept progress"])
        text += f" {number} of those done went on from what an earlier one had kept."
    return text


@dataclass(frozen=True)
class Band:
    """Where a stage is drawn, in inches from the top; its first lane begins at `first`."""

    top: float
    height: float
    first: float
    lane: float


def bands(placed: dict[str, dict[str, int]]) -> dict[str, Band]:
    """A band for each stage, below each other: as high as its lanes, or as its name."""
    number = {stage: 1 + max(of_jobs.values()) for stage, of_jobs in placed.items()}
    thin = min(LANE_INCHES, MOST_INCHES / sum(number.values()))
    found, top = {}, 0.0
    for stage, n in number.items():
        lane = max(thin, LANE_INCHES / n)
        height = max(LABEL_INCHES, lane * n + LANE_INCHES / 2)
        found[stage] = Band(top, height, top + (height - lane * n) / 2, lane)
        top += height
    return found


@drawn
def figure(bars: Sequence[Bar]) -> Axes:
    """Bars over the time since the start, coloured by how the attempt ended."""
    placed, cuts = lanes(bars), pauses(bars)
    of_stage = bands(placed)
    height = sum(band.height for band in of_stage.values())
    kept = max(bar.end for bar in bars) - _length(cuts)
    width = kept * (1 + CUT_SHARE * len(cuts))
    divisor, unit = time_unit(kept)

    def place(seconds: float) -> float:
        """Position on the axis, in seconds, pauses shortened."""
        past = [(start, end) for start, end in cuts if end <= seconds]
        return seconds - _length(past) + CUT_SHARE * kept * len(past)

    def corners(bar: Bar) -> list[tuple[float, float]]:
        band = of_stage[bar.stage]
        top = band.first + band.lane * (placed[bar.stage][bar.job] + 0.08)
        left, bottom = place(bar.start), top + 0.84 * band.lane
        right = max(place(bar.end) - SEAM_SHARE * width, left + LEAST_SHARE * width)
        return [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]

    since = "time since the start" + (", pauses cut out" if cuts else "")
    axes = panel("timeline", 1.1 + height, x=f"{since} ({unit})")
    codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY]
    for how, colour in HOW.items():
        outlines = [corners(bar) for bar in bars if bar.how == how]
        if outlines:
            shape = Outline(np.concatenate(outlines) / [divisor, 1], codes * len(outlines))
            axes.add_patch(PathPatch(shape, fc=colour, lw=0, label=how))
    for start, end in cuts:
        axes.axvspan(place(start) / divisor, place(end) / divisor, color="#eeeeee", lw=0)
        axes.text(
            (place(start) + CUT_SHARE * kept / 2) / divisor,
            height / 2,
            f"nothing ran for {duration(end - start)}",
            rotation=90,
            ha="center",
            va="center",
            size=8,
            color=LINE_GREY,
        )
    for band in list(of_stage.values())[1:]:
        axes.axhline(band.top, color="#e6e6e6", lw=0.6)
    middles = [band.top + band.height / 2 for band in of_stage.values()]
    axes.set_yticks(middles, [short(stage, 24) for stage in of_stage], size=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(height, 0)
    axes.set_xlim(0, width * 1.005 / divisor)
    axes.grid(axis="y", visible=False)
    return axes


def _length(spans: Sequence[tuple[float, float]]) -> float:
    return sum(end - start for start, end in spans)
