"""Numbers as a reader should meet them: with unit, a true minus, a dash for what is unknown."""

from __future__ import annotations

import math
import re

NOTHING = "–"
SPACE = "\u00a0"  # keeps number and unit on one line


def count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def plural(number: int, thing: str) -> str:
    """So many of a thing: 1 job, 2,000 jobs."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def tokens(value: float) -> str:
    """A number of tokens: 401,408, 50M, 8.2B."""
    for divisor, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if value >= divisor:
            return f"{value / divisor:.3g}{letter}"
    return f"{value:,.0f}"


def percent(share: float | None) -> str:
    return NOTHING if share is None else f"{number(100 * share, 1)}{SPACE}%"


def times(factor: float | None) -> str:
    """A multiple, by about two digits: 0.03×, 2.4×, 17×."""
    if factor is None:
        return NOTHING
    return f"{number(factor, 2 if factor < 1 else 1 if factor < 10 else 0)}×"


def number(value: float | None, decimals: int = 2, sign: bool = False) -> str:
    """A decimal with a true minus; an unknown value is a dash, and zero has no sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    if not text.strip("+-0."):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def interval(bounds: list[float] | None, decimals: int = 2) -> str:
    if bounds is None:
        return NOTHING
    return f"{number(bounds[0], decimals)} to {number(bounds[1], decimals)}"


def hours(value: float | None) -> str:
    """By three digits, whatever the size."""
    if not value:
        return NOTHING if value is None else "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}"


def flop(value: float | None) -> str:
    """Floating-point operations: 3.2 TFLOP, 12 EFLOP."""
    if value is None:
        return NOTHING
    factor, unit = flop_unit(value)
    return f"{value / factor:,.3g}{SPACE}{unit}"


def flop_unit(most: float) -> tuple[float, str]:
    """Size and name of the unit for values of up to `most` operations."""
    units = ((1e21, "ZFLOP"), (1e18, "EFLOP"), (1e15, "PFLOP"), (1e12, "TFLOP"))
    return next(((size, name) for size, name in units if most >= size), (1e9, "GFLOP"))


def duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s"
    minutes, whole = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {whole:02d}{SPACE}s"
    return f"{minutes // 60:,}{SPACE}h {minutes % 60:02d}{SPACE}min"


def memory(megabytes: float | None) -> str:
    if megabytes is None:
        return NOTHING
    if megabytes < 1000:
        return f"{megabytes:.0f}{SPACE}MB"
    if megabytes < 1e6:
        return f"{megabytes / 1000:.1f}{SPACE}GB"
    return f"{megabytes / 1e6:,.1f}{SPACE}TB"


def short(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def tidy(text: str) -> str:
    """An excerpt without the blank that only takes room: long spaces, and more than one empty line."""
    text = re.sub(r"[^\S\n]{3,}", "  ", text.strip())
    return re.sub(r"\n\s*\n\s*", "\n\n", text)


def beginning(text: str, letters: int) -> tuple[str, str]:
    """The first words of a tidy text, and the rest; nothing is split for a few letters."""
    text = tidy(text)
    if len(text) <= 1.2 * letters:
        return text, ""
    cut = text[: letters + 1].rfind(" ")
    cut = cut if cut > letters / 2 else letters
    return text[:cut], text[cut:]
