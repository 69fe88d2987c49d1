"""A real headless browser, for what only a browser can tell of a page."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# As root there is no sandbox; without a GPU WebGL runs in software.
OPTIONS = ["--no-sandbox", "--enable-unsafe-swiftshader", "--use-angle=swiftshader"]

needs_browser = (
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: install chromium"),
)


@dataclass
class Opened:
    """A page that was opened: what it said on its console, and what it asked the network for."""

    page: object
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@contextmanager
def opened(path: Path, width: int, *options: str) -> Iterator[Opened]:
    """The file at `path` in a window of `width` pixels."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, *options])
        page = browser.new_page(viewport={"width": width, "height": 900})
        found = Opened(page)
        page.on("console", lambda m: m.type in ("error", "warning") and found.said.append(m.text))
        page.on("pageerror", lambda error: found.said.append(str(error)))
        page.on("request", lambda r: r.url.startswith(("http", "ws")) and found.asked.append(r.url))
        page.goto(path.as_uri())
        yield found
        browser.close()


def draw_map(page) -> int:
    """Bring the map into view and wait for it; the number of points drawn."""
    page.evaluate("document.getElementById('map').scrollIntoView()")
    page.wait_for_selector("#map-live[data-drawn]", timeout=60_000)
    return int(page.get_attribute("#map-live", "data-drawn"))
