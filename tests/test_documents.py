"""What the documents name is there: pages, headings, files, keys, selectors, artefacts."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from groupmates.artefacts.catalogue import ARTEFACTS
from groupmates.settings import config
from prose import ROOT, files

PAGES = [path.as_posix() for path in files(".md")]
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
OF_THE_USER = ("mine.yaml", "tasks.yaml")
SUFFIXES = {"html", "json", "txt", "md", "csv", "svg", "parquet", "py", "smk", "yaml", "yml", "tar"}


def text(page: str) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", (ROOT / page).read_text())


def named(page: str) -> list[str]:
    """The words between backticks."""
    return [word for code in re.findall(r"`([^`\n]+)`", text(page)) for word in code.split()]


def anchors(page: Path) -> set[str]:
    """The names by which a page's headings are linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    lost = []
    for target in LINK.findall(text(page)):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        found = ((ROOT / page).parent / path).resolve() if path else ROOT / page
        if not found.exists() or (anchor and anchor not in anchors(found)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_every_file_that_is_named_is_there(page):
    """By its whole path, or by its last parts where it is a module, a rule or a configuration."""
    there = [f"/{path.as_posix()}" for path in files(".py", ".smk", ".yaml")]
    lost = []
    for word in named(page):
        if re.search(r"[{…]|NAME|RUN|FILE|DIR", word):
            continue
        whole = re.fullmatch(r"(tests|workflow|profiles|envs|config)/[\w./*-]*", word)
        part = re.fullmatch(r"[\w./-]+\.(py|smk|yaml)", word)
        if whole and not (ROOT / word).exists() and not list(ROOT.glob(word)):
            lost.append(word)
        if (
            part
            and word not in OF_THE_USER
            and not any(path.endswith(f"/{word}") for path in there)
        ):
            lost.append(word)
    assert lost == []


@pytest.mark.parametrize("page", PAGES)
def test_every_key_that_is_named_is_one(page):
    leaves = config.keys()
    known = leaves | {key.rsplit(".", n)[0] for key in leaves for n in range(1, key.count(".") + 1)}
    sections = "|".join(config.Config.model_fields)
    lost = [
        word
        for word in (w.rstrip(":") for w in named(page))
        if re.fullmatch(rf"(?:{sections})(?:\.[a-z_]+)+", word)
        if word.rpartition(".")[2] not in SUFFIXES
        if word not in known
    ]
    assert lost == []


def test_every_selector_has_its_part_of_the_page():
    page = (ROOT / "workflow/docs/selectors.md").read_text()
    described = set(re.findall(r"^## ([a-z_]+)$", page, re.MULTILINE))
    assert described == set(config.SELECTORS) - {"random"}
    for name in config.SELECTORS:
        assert f"`{name}`" in page


def test_every_artefact_stands_on_its_page():
    words = [word.rstrip(",") for word in named("workflow/docs/artefacts.md")]
    patterns = [re.sub(r"\{[^}]*\}|…", "*", w) for w in words if "/" in w or "." in w[1:]]
    lost = []
    for name, artefact in ARTEFACTS.items():
        path = re.sub(r"\{[^}]*\}", "x", artefact.path)
        if not any(fnmatch(path, pattern) or fnmatch(f"{path}/", pattern) for pattern in patterns):
            lost.append(name)
    assert lost == []
