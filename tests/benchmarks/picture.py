"""The picture in the README: the head of a report, and the map of its pool below.

    python tests/benchmarks/picture.py results/demo/report.html workflow/docs/report.png

Needs chromium. The picture is 900 pixels wide, in 128 colours, and smaller than 150 kB.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from browser import draw_map, opened

WINDOW = 1150  # pixels: the page in two columns
WIDTH = 900
STYLE = """
    header nav, figure.first figcaption, .controls, .modebar {display: none !important}
    #map-plot {height: 340px !important}
"""
READ = (0.62, 0.66)  # across and down the map: where a document is read


def parts(page) -> list[Image.Image]:
    """The head of the page, and the map with its legend and one document."""
    page.add_style_tag(content=STYLE)
    draw_map(page)
    plot = page.locator("#map-plot").bounding_box()
    across, down = READ
    page.mouse.move(plot["x"] + across * plot["width"], plot["y"] + down * plot["height"])
    page.wait_for_timeout(1000)  # until every point is on the map
    shots = [page.locator(name).first.screenshot() for name in ("header", "#map-live")]
    return [Image.open(io.BytesIO(shot)).convert("RGB") for shot in shots]


def stacked(images: list[Image.Image]) -> Image.Image:
    """One below the other on white, centred."""
    width = max(image.width for image in images)
    whole = Image.new("RGB", (width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, ((width - image.width) // 2, top))
        top += image.height
    return whole


def main(report: Path, output: Path) -> None:
    with opened(report.resolve(), WINDOW) as found:
        whole = stacked(parts(found.page))
    small = whole.resize((WIDTH, round(whole.height * WIDTH / whole.width)), Image.LANCZOS)
    small.quantize(128).save(output, optimize=True)
    print(f"{output}: {small.width} x {small.height}, {output.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
