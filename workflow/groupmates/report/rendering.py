"""A page as one self-contained HTML file."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from groupmates import formatting

FILTERS = (
    *("count", "tokens", "percent", "times", "number", "interval"),
    *("duration", "hours", "flop", "memory", "beginning"),
)


def render(template: str, page: dict[str, Any]) -> str:
    """A template of page/, filled; a name that it does not find is an error."""
    environment = Environment(
        loader=PackageLoader("groupmates.report", "page"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    for name in FILTERS:
        environment.filters[name] = getattr(formatting, name)
    return environment.get_template(f"{template}.html.jinja").render(page) + "\n"
