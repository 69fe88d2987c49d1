"""Claims about the report in a real browser: it renders, is silent, quiet, legible and answers."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from test_report import report, settings, synthetic_run

from browser import draw_map, needs_browser, opened
from groupmates.report.figures import training_and_influence as figures

pytestmark = [*needs_browser]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    arguments = synthetic_run(tmp_path_factory.mktemp("run"))
    report(arguments)
    return arguments["output"]


@pytest.mark.parametrize("width", [1280, 420])
def test_it_renders_in_silence_without_network_and_nothing_is_cut_off(written, width):
    with opened(written, width) as found:
        assert draw_map(found.page) == 300
        figures = found.page.locator("figure svg:visible")
        boxes = [figures.nth(i).bounding_box() for i in range(figures.count())]
        wide = found.page.evaluate("document.documentElement.scrollWidth")
        still = found.page.is_visible("#map-still")
    assert (found.said, found.asked) == ([], [])
    assert len(boxes) == 15 and not still  # of 16; the map's picture gave way to the map
    assert all(box["width"] > 250 and box["height"] > 80 for box in boxes)
    assert wide == width


def test_on_a_wide_window_no_table_goes_on_beyond_its_edge(written, tmp_path):
    """The last column of the table beside the calibration was cut off."""
    hidden = """() => [...document.querySelectorAll('.scroll')]
        .filter(e => e.checkVisibility() && e.scrollWidth > e.clientWidth)
        .map(e => e.ariaLabel)"""
    with opened(written, 1280) as found:
        assert found.page.locator(".scroll:visible").count() >= 4
        assert found.page.evaluate(hidden) == []
    arguments = synthetic_run(tmp_path, methods=("group_mates", "oracle_greedy", "random"))
    selectors = {method: method for method in ("group_mates", "oracle_greedy", "random")}
    changed = settings().model_copy(update={"selectors": selectors})
    report(arguments | {"settings": changed})
    with opened(arguments["output"], 1280) as found:
        assert found.page.locator("[aria-label='Methods side by side']").count() == 1
        assert found.page.locator("[aria-label='Against oracle_greedy']").count() == 1
        assert found.page.evaluate(hidden) == []


@pytest.mark.parametrize("width", [536, 380])
def test_no_number_below_an_axis_runs_into_the_next(tmp_path, width):
    """The browser's letters are wider than those that matplotlib spaces the ticks for."""
    predicted = np.linspace(-0.043, 0.129, 60)
    step = np.tile(np.arange(1, 9), 8)[:60]
    drawn = figures.predictions(predicted, predicted[::-1] * 1.1, step, "predictions")
    page = tmp_path / "figure.html"
    page.write_text(f'<div style="width: {width}px; font-family: sans-serif">{drawn}</div>')
    meeting = """() => {
        const texts = [...document.querySelectorAll('svg text')];
        return texts.flatMap((t, i) => texts.slice(i + 1).filter(u => {
            const [a, b] = [t.getBoundingClientRect(), u.getBoundingClientRect()];
            return a.left < b.right && b.left < a.right && a.top + 3 < b.bottom && b.top + 3 < a.bottom;
        }).map(u => t.textContent + ' ' + u.textContent));
    }"""
    with opened(page, width + 20) as found:
        assert found.page.locator("svg text").count() > 15
        assert found.page.evaluate(meeting) == []


@pytest.mark.parametrize(("width", "least"), [(1280, 9.0), (420, 7.5)])
def test_letters_of_text_and_figures_are_legible(written, width, least):
    heights = """() => [...document.querySelectorAll('p, td, h1, figcaption, figure svg text')]
        .filter(e => e.textContent.trim() && e.getClientRects().length && !e.closest('#map-plot'))
        .map(e => parseFloat(getComputedStyle(e).fontSize) *
            (e.ownerSVGElement ? e.ownerSVGElement.getScreenCTM().a : 1))"""
    with opened(written, width) as found:
        pixels = found.page.evaluate(heights)
    assert len(pixels) > 300
    assert min(pixels) >= least


def test_a_screenshot_of_the_map_has_the_colours_of_help_and_harm(written):
    from io import BytesIO

    from matplotlib.image import imread

    with opened(written, 1280) as found:
        draw_map(found.page)
        picture = imread(BytesIO(found.page.locator("#map-plot").screenshot()))
    red, blue = picture[..., 0], picture[..., 2]
    assert np.sum(blue - red > 0.25) > 100
    assert np.sum(red - blue > 0.25) > 100


def test_the_map_can_be_coloured_filtered_and_asked(written):
    with opened(written, 1280) as found:
        page = found.page
        draw_map(page)
        for choice, said in (
            ("kept", "not kept"),
            ("source", "source A"),
            ("cluster", "6 clusters"),
        ):
            page.select_option("#map-colour", choice)
            assert said in page.inner_text("#map-legend")
        page.locator("button[data-cluster]").first.click()
        cluster = page.input_value("#map-cluster")
        assert f"cluster {cluster}" in page.inner_text("#map-legend")
        page.check("#map-kept")
        data = json.loads(_unpacked(page.inner_html("#map-data")))
        points = "document.getElementById('map-plot').data[0].x.length"
        assert page.evaluate(points) == sum(data["kept"]) < 300
        page.evaluate(
            "document.getElementById('map-plot').emit('plotly_hover', {points: [{pointNumber: 0}]})"
        )
        first = data["kept"].index(1)
        assert data["ids"][first] in page.inner_text("#map-document")
        assert f"I am <{data['ids'][first]}>" in page.inner_text("#map-document")
    assert found.said == []


def _unpacked(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def test_without_webgl_the_map_is_drawn_by_other_means(written):
    with opened(written, 1280, "--disable-3d-apis") as found:
        assert draw_map(found.page) == 300
        assert found.page.evaluate("document.getElementById('map-plot').data[0].type") == "scatter"


def test_in_print_the_still_picture_stands_for_the_map(written):
    with opened(written, 1280) as found:
        draw_map(found.page)
        found.page.emulate_media(media="print")
        assert found.page.is_visible("#map-still svg")
        assert not found.page.is_visible("#map-live")
        assert len(found.page.pdf()) > 50_000
