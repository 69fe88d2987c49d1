"""The key reference (docs/config.md) and the JSON schema, from the settings' types and their texts.

`python -m groupmates.settings.reference` writes both anew. The texts are read from the source here,
not by pydantic where the classes are made: every job imports those.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from groupmates.settings.config import Config
from groupmates.settings.sections import Section

WORKFLOW = Path(__file__).parents[2]
PAGE = WORKFLOW / "docs/config.md"
SCHEMA = WORKFLOW / "schemas/config.schema.json"
DEFAULTS = WORKFLOW.parent / "config.yaml"
INTRODUCTION = """\
# The keys of config.yaml

Write the keys that differ from [config.yaml](../../config.yaml) to a file of your own, and name it with
`--configfile`. `--config seed=1 'probe={shards: 4}'` changes keys on the command line. `null` means
that a key is not set.

A key's field stands in `groupmates/settings/config.py` or `selectors.py`. Which stages depend on it
stands in `per_stage.py` and `selectors.py`; `tests/workflow/test_stale.py` has a table of what each
key makes stale.

"Paper" is Group-MATES (arXiv 2502.14709), "§" a section of its method. Influences and losses are in
nats: lower is better.

<!-- Written by `python -m groupmates.settings.reference` from workflow/groupmates/settings/. -->
"""


def texts() -> dict[str, dict[str, str]]:
    """The text under each field, by class."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text()).body
        for kind in [node for node in tree if isinstance(node, ast.ClassDef)]:
            for pair in pairwise(kind.body):
                match pair:
                    case (
                        ast.AnnAssign(target=ast.Name(id=field)),
                        ast.Expr(value=ast.Constant(value=str(text))),
                    ):
                        found.setdefault(kind.name, {})[field] = flowing(text)
    return found


def sections(base: type[Section] = Section) -> dict[str, type[Section]]:
    """The classes of all sections, by name."""
    found: dict[str, type[Section]] = {}
    for kind in base.__subclasses__():
        found |= {kind.__name__: kind} | sections(kind)
    return found


def flowing(text: str) -> str:
    """A docstring without its line breaks; empty lines still part paragraphs."""
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(part.split()) for part in paragraphs)


def schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of config.yaml, for editors."""
    found = Config.model_json_schema()
    described, kinds = texts(), sections()
    for name, place in {**found["$defs"], "Config": found}.items():
        if "description" in place:
            place["description"] = flowing(place["description"])
        for base in reversed(kinds[name].__mro__):
            for field, text in described.get(base.__name__, {}).items():
                place["properties"][field]["description"] = text
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **found}


def page() -> str:
    """The reference as Markdown: a table for each section."""
    whole = schema()
    defaults = yaml.safe_load(DEFAULTS.read_text())
    return INTRODUCTION + "".join(section(whole, whole["$defs"], defaults, ""))


def section(place: dict[str, Any], kinds: dict[str, Any], defaults: Any, prefix: str) -> list[str]:
    """A section's heading, its keys, and the sections within."""
    rows, notes, within = [], [], []
    for key, entry in place["properties"].items():
        if "$ref" in entry:
            of_key = kinds[entry["$ref"].rsplit("/", 1)[1]]
            within += section(of_key, kinds, defaults[key], f"{prefix}{key}.")
            continue
        first, *more = entry["description"].split("\n\n")
        cells = (f"`{key}`", values(entry, kinds), f"`{written(defaults[key])}`", first)
        rows.append(f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |\n")
        if more:
            notes.append(f"- `{key}`: " + "\n\n  ".join(more) + "\n")
    level = "#" * (1 + prefix.count("."))
    heading = [f"\n{level} {prefix[:-1]}\n\n{place['description']}\n"] if prefix else []
    table = ["\n| key | value | default | meaning |\n|---|---|---|---|\n", *rows] if rows else []
    return [*heading, *table, *(["\n"] if notes else []), *notes, *within]


def written(value: Any) -> str:
    """A default as YAML has it."""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def values(entry: dict[str, Any], kinds: dict[str, Any]) -> str:
    """What a key may be, in words."""
    if "anyOf" in entry:
        return either(values(choice, kinds) for choice in entry["anyOf"])
    if "$ref" in entry:
        fields = kinds[entry["$ref"].rsplit("/", 1)[1]]["properties"]
        return "`{" + ", ".join(fields) + "}`"
    if "const" in entry or "enum" in entry:
        return either(f"`{choice}`" for choice in entry.get("enum", [entry.get("const")]))
    if entry["type"] == "array":
        return "list of " + re.sub("(text|number)", r"\1s", values(entry["items"], kinds))
    name = {"integer": "whole number", "string": "text", "null": "`null`", "object": "mapping"}
    return name.get(entry["type"], entry["type"]) + bounds(entry)


def either(choices: Iterable[str]) -> str:
    *others, last = choices
    return f"{', '.join(others)} or {last}" if others else last


def bounds(entry: dict[str, Any]) -> str:
    """The range of a number in words, with a space before; empty where there is none."""
    words = {
        "exclusiveMinimum": "above",
        "minimum": "from",
        "exclusiveMaximum": "to below",
        "maximum": "to",
    }
    return "".join(f" {word} {entry[key]:g}" for key, word in words.items() if key in entry)


def write() -> None:
    """Both files, as they stand in the repository."""
    PAGE.write_text(page())
    SCHEMA.write_text(json.dumps(schema(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    write()
