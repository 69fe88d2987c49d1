"""The sentence that may be said of a method's pretraining: no more than its intervals carry."""

from __future__ import annotations

from groupmates.formatting import SPACE, interval, number, percent, plural
from groupmates.report.gains import CONFIDENCE, Estimate, Gain
from groupmates.report.words import decimals_of, holds_zero

MEASURES = {"gpu_hours": "GPU-hours", "core_hours": "core-hours", "flop": "FLOP"}
LEVEL = f"{100 * CONFIDENCE:g}{SPACE}%"


def sentence(gain: Gain) -> str:
    """One sentence or two. What an interval does not show is said to be not shown."""
    name, over = gain.name, gain.over
    if len(gain.seeds) < 2:
        return (
            f"With one seed, {name} ended {_nats(gain)}{_to_same_loss(gain)}. "
            "One training has no interval: this is no evidence of a difference."
        )
    lead = f"With {len(gain.seeds)} paired seeds and {LEVEL} intervals, "
    bounds = f"({interval(gain.loss.interval, places(gain))} nats)"
    if holds_zero(gain.loss.interval):
        return (
            f"{lead}no difference between the final losses of {name} and {over} is shown {bounds}"
            f"{_in_all(gain)}."
        )
    if gain.loss.mean > 0:
        return (
            f"{lead}{name} ended {_nats(gain)} {bounds}, and did not reach its final loss"
            f"{_to_same_loss(gain)}."
        )
    if gain.tokens is None or None in gain.reaches:
        reached = sum(tokens is not None for tokens in gain.reaches)
        return (
            f"{lead}{name} ended {_nats(gain)} {bounds}, and reached its final loss in {reached} of "
            f"{plural(len(gain.seeds), 'training')}: what it saved is not told{_in_all(gain)}."
        )
    if holds_zero(gain.tokens.interval):
        return (
            f"{lead}{name} ended {_nats(gain)} {bounds}, but is not shown to need fewer training "
            f"tokens for the same loss ({_percents(gain.tokens)} fewer){_in_all(gain)}."
        )
    return (
        f"{lead}{name} reached the final loss of {over} with {_share(gain.tokens)}{_counted(gain)}."
    )


def places(gain: Gain) -> int:
    """Decimals of this difference."""
    return decimals_of([gain.loss.interval or gain.by_example])


def _nats(gain: Gain) -> str:
    side = "below" if gain.loss.mean < 0 else "above"
    return f"{number(abs(gain.loss.mean), places(gain))} nats {side} {gain.over}"


def _to_same_loss(gain: Gain) -> str:
    """What both needed until they had the worse of their final losses."""
    if gain.tokens is None:
        return ""
    return f"; to the worse of both final losses it took {_share(gain.tokens)}{_counted(gain)}"


def _counted(gain: Gain) -> str:
    """The cost until the same loss, with the selection."""
    found = gain.compute
    if found is None or gain.measure is None:
        return "; what its selection cost is not recorded"
    unit, counting = MEASURES[gain.measure], "; counting its selection, "
    if found.interval is not None and holds_zero(found.interval):
        return f"{counting}it is not shown to take fewer or more {unit} ({_percents(found)} fewer)"
    return f"{counting}it took {_share(found, unit)}"


def _in_all(gain: Gain) -> str:
    """The cost of whole trainings, with the selection."""
    if gain.whole is None or gain.measure is None:
        return "; what its selection cost is not recorded"
    share = _share(gain.whole, MEASURES[gain.measure])
    return f"; with its selection, all of its training took {share}"


def _share(found: Estimate, of: str = "training tokens") -> str:
    """Such as 31.0 % fewer GPU-hours (24.0 to 38.0 %), or as much more."""
    less = found.mean >= 0
    text = f"{percent(abs(found.mean))} {'fewer' if less else 'more'} {of}"
    return text if found.interval is None else f"{text} ({_percents(found, 1 if less else -1)})"


def _percents(found: Estimate, sign: int = 1) -> str:
    assert found.interval is not None
    return f"{interval(sorted(100 * sign * bound for bound in found.interval), 1)}{SPACE}%"
