"""The frontier: pretrained models beside each other by loss and by cost, as rows, words and figures.

Of one run, or of several.
"""

from __future__ import annotations

import json
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from groupmates import formatting
from groupmates.artefacts.store import replacing
from groupmates.maths.statistics import LEVEL, POWER, seeds_needed
from groupmates.report import gain_tasks, gain_words
from groupmates.report.comparison import as_csv, markdown
from groupmates.report.data.pretrained import Cost, Trained
from groupmates.report.figures import canvas, frontier
from groupmates.report.gains import Gain, gain
from groupmates.report.rendering import render

Row = dict[str, Any]
MEASURES = gain_words.MEASURES
# Of CORE from one training seed to the next, in a public series of 20 models of one recipe; and
# differences that one may hope for.
CORE_NOISE, CORE_DIFFERENCES = 0.0062, (0.011, 0.0046)


@dataclass(frozen=True)
class Compared:
    """Methods by name, and which of them are compared: (method, other), the main other first.

    `measure`: the part of a Cost by which; None where none is known. `apart`: what else each run has
    spent. `examples`: of core.examples. `seed`: of the run.
    """

    title: str
    methods: dict[str, Trained]
    pairs: list[tuple[str, str]]
    measure: str | None
    apart: dict[str, Cost]
    examples: int | None
    seed: int

    @property
    def baseline(self) -> str:
        return self.pairs[0][1] if self.pairs else next(iter(self.methods))


@dataclass(frozen=True)
class Page:
    """`content`: what the template needs. `rows`, `tasks`: the tables. `markdown`: as a text."""

    content: dict[str, Any]
    rows: list[Row]
    tasks: list[Row]
    markdown: str


def page(of: Compared) -> Page:
    gains = [gain(of.methods[a], of.methods[b], of.measure, of.seed) for a, b in of.pairs]
    sentences = [gain_words.sentence(g) for g in gains] or [
        "There is no comparison: random and another method must both be in pretrain.methods."
    ]
    found, tasks = rows(of, gains), gain_tasks.rows(of.methods, of.baseline, of.examples)
    places = max(map(gain_words.places, gains), default=3)
    content = {
        "title": of.title,
        "sentences": sentences,
        "rows": found,
        "places": places,
        "baseline": of.baseline,
        "seeds": max(len(trained.curves) for trained in of.methods.values()),
        "heldout": len(of.methods[of.baseline].labels_E),
        "measure": MEASURES.get(of.measure or ""),
        "stages": max(len(trained.begins) for trained in of.methods.values()),
        "costs": costs(of),
        "apart": {name: cost for name, cost in of.apart.items() if of.measure},
        "tasks": tasks,
        "core_power": core_power(),
        "core_noise": CORE_NOISE,
        "power": POWER,
        "level": LEVEL,
        "figures": {name: Markup(svg) for name, svg in figures(of).items()},
    }
    return Page(content, found, tasks, as_markdown(found, places, sentences))


def rows(of: Compared, gains: list[Gain]) -> list[Row]:
    """A row per comparison, and one per method that is compared with none; best first."""
    compared = {g.name for g in gains}
    alone = [_row(trained, None, of) for m, trained in of.methods.items() if m not in compared]
    found = [*alone, *(_row(of.methods[g.name], g, of) for g in gains)]
    return sorted(found, key=lambda row: row["final_nats"])


def _row(trained: Trained, g: Gain | None, of: Compared) -> Row:
    loss, tokens, compute = (g.loss, g.tokens, g.compute) if g else (None, None, None)
    return {
        "method": trained.name,
        "minus": g and g.over,
        "seeds": len(g.seeds if g else trained.curves),
        "tokens": trained.tokens,
        "other_tokens": g and of.methods[g.over].tokens,
        "final_nats": trained.mean_nats,
        "minus_nats": loss and loss.mean,
        **_bounds("minus_by_seed", "_nats", loss.interval if loss else None),
        **_bounds("minus_by_example", "_nats", g.by_example if g else None),
        "reaches_other_in": g and sum(tokens is not None for tokens in g.reaches),
        "reaches_other_after_tokens": g and _mean(g.reaches),
        "other_reaches_in": g and sum(tokens is not None for tokens in g.reached),
        "other_reaches_after_tokens": g and _mean(g.reached),
        "tokens_saved": tokens and tokens.mean,
        **_bounds("tokens_saved", "", tokens.interval if tokens else None),
        "compute_saved": compute and compute.mean,
        **_bounds("compute_saved", "", compute.interval if compute else None),
        "all_compute_saved": g and g.whole and g.whole.mean,
        "compute_is_of": of.measure,
        **_of_cost("selection", trained.selected(trained.tokens), of),
        **_of_cost("training", trained.token.times(trained.tokens), of),
        "spread_nats": loss and loss.deviation,
        "smallest_difference_nats": g and g.smallest,
        "seeds_needed": g and g.needed,
    }


def _bounds(name: str, unit: str, interval: list[float] | None) -> Row:
    low, high = interval or (None, None)
    return {f"{name}_low{unit}": low, f"{name}_high{unit}": high}


def _mean(tokens: list[float | None]) -> float | None:
    """None where a training was not there."""
    found = [t for t in tokens if t is not None]
    return float(np.mean(found)) if len(found) == len(tokens) else None


def _of_cost(name: str, cost: Cost, of: Compared) -> Row:
    keys = (f"{name}_{part}" for part in MEASURES)
    return dict(zip(keys, astuple(cost) if of.measure else [None] * len(MEASURES), strict=True))


def costs(of: Compared) -> list[Row]:
    """What one training of each method takes: each stage's selection, the training, both together."""
    if of.measure is None:
        return []
    found = []
    for method, trained in of.methods.items():
        many = len(trained.selections) > 1
        for number, cost in enumerate(trained.selections, 1):
            what = f"selection, stage {number}" if many else "selection"
            found.append({"method": method, "what": what, "cost": cost})
        training = trained.token.times(trained.tokens)
        found.append({"method": method, "what": "training", "cost": training})
        total = trained.spent(trained.tokens)
        found.append({"method": method, "what": "together", "cost": total})
    return found


def core_power() -> list[Row]:
    """Seeds on either side that find differences of CORE, by its noise from seed to seed."""
    return [
        {"difference": d, "seeds": seeds_needed(CORE_NOISE, d, paired=False)}
        for d in CORE_DIFFERENCES
    ]


def as_markdown(found: list[Row], places: int, sentences: list[str]) -> str:
    over_seeds = f"{gain_words.LEVEL} over seeds"
    heads = ["method", "seeds", "final loss, nats", "minus", "difference, nats", over_seeds]
    heads += [f"{gain_words.LEVEL} over examples", "tokens saved", over_seeds]
    heads += ["compute saved", over_seeds, "compute in"]
    lines = [
        [
            row["method"],
            str(row["seeds"]),
            formatting.number(row["final_nats"], places),
            row["minus"] or formatting.NOTHING,
            formatting.number(row["minus_nats"], places, sign=True),
            formatting.interval(interval_of(row, "minus_by_seed", "_nats"), places),
            formatting.interval(interval_of(row, "minus_by_example", "_nats"), places),
            formatting.percent(row["tokens_saved"]),
            percents(interval_of(row, "tokens_saved")),
            formatting.percent(row["compute_saved"]),
            percents(interval_of(row, "compute_saved")),
            MEASURES.get(row["compute_is_of"], formatting.NOTHING),
        ]
        for row in found
    ]
    told = "\n".join(f"- {sentence}" for sentence in sentences)
    return f"{markdown(heads, lines)}\n{told}\n".replace(formatting.SPACE, " ")


def interval_of(row: Row, name: str, unit: str = "") -> list[float] | None:
    low, high = row[f"{name}_low{unit}"], row[f"{name}_high{unit}"]
    return None if low is None else [low, high]


def percents(bounds: list[float] | None) -> str:
    """An interval of shares."""
    if bounds is None:
        return formatting.NOTHING
    return f"{formatting.interval([100 * b for b in bounds], 1)}{formatting.SPACE}%"


def figures(of: Compared) -> dict[str, str]:
    colours = canvas.palette(list(of.methods), of.baseline)
    curves = {m: list(trained.curves.values()) for m, trained in of.methods.items()}
    drawn = {"tokens": frontier.losses("tokens", "training tokens", curves, colours)}
    tasks = gain_tasks.common_tasks(of.methods)
    axes = {"compute": of.measure, "flop": "flop"} if of.measure else {}
    for name, measure in axes.items():
        if name == "flop" and of.measure == "flop":
            continue
        x, spent = _spent(of, measure)
        against = {
            m: [(spent[m, s], nats_P) for s, (_, nats_P) in trained.curves.items()]
            for m, trained in of.methods.items()
        }
        drawn[name] = frontier.losses(name, x, against, colours)
        if name == "compute" and tasks:
            at = {m: spent[m, min(trained.curves)][-1] for m, trained in of.methods.items()}
            for key, of_seeds, y in (
                ("core", gain_tasks.core_S, "mean centred accuracy"),
                ("bits", gain_tasks.bits_S, "bits per byte of right answers"),
            ):
                values = {m: (at[m], of_seeds(t, tasks).tolist()) for m, t in of.methods.items()}
                drawn[key] = frontier.ends(key, x, y, values, colours)
    return drawn


def _spent(of: Compared, measure: str) -> tuple[str, dict[tuple[str, int], np.ndarray]]:
    """The name of an axis of cost, and the cost at each point of each training."""
    found = {
        (m, s): np.array([getattr(trained.spent(t), measure) for t in tokens_P])
        for m, trained in of.methods.items()
        for s, (tokens_P, _) in trained.curves.items()
    }
    if measure != "flop":
        return f"training and selection ({MEASURES[measure]})", found
    size, unit = formatting.flop_unit(max(spent[-1] for spent in found.values()))
    return f"training and selection ({unit})", {k: spent / size for k, spent in found.items()}


def write(folder: Path, page: Page, provenance: dict[str, Any] | None) -> None:
    """frontier.html, .csv and .md, and frontier-tasks.csv where tasks were asked."""
    record = json.dumps(provenance, sort_keys=True).replace("<", "\\u003c")
    written = {
        "frontier.html": render("frontier", {**page.content, "provenance": Markup(record)}),
        "frontier.csv": as_csv(page.rows),
        "frontier.md": page.markdown,
    }
    if page.tasks:
        written["frontier-tasks.csv"] = as_csv(page.tasks)
    for name, text in written.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
