"""How large the report is and how long it takes to make and to open, by points on its map.

    python tests/benchmarks/page.py 10000 100000

Needs chromium; without a GPU WebGL is computed by the processor, and slower than on any desk.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "tests"), str(ROOT / "tests/stages")]

from test_report import report, settings, synthetic_run  # noqa: E402

from browser import opened  # noqa: E402

COUNT = """() => {
    window.frames_drawn = 0;
    const step = () => { window.frames_drawn++; requestAnimationFrame(step); };
    requestAnimationFrame(step);
}"""


def frames_while_dragging(page) -> float:
    """Frames a second while the mouse drags the map to and fro."""
    box = page.locator("#map-plot").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.evaluate(COUNT)
    start = time.perf_counter()
    for step in range(60):
        page.mouse.move(x + 80 * (step % 2) + step, y)
    frames = page.evaluate("frames_drawn") / (time.perf_counter() - start)
    page.mouse.up()
    return frames


def main(points: list[int]) -> None:
    print("points  make s  peak MB  file MB  open s  map s  frames/s while dragging")
    for number in points:
        with tempfile.TemporaryDirectory() as folder:
            arguments = synthetic_run(Path(folder), documents=number, sources=6, clusters=200)
            start = time.perf_counter()
            report(arguments | {"settings": settings(map_points=number)})
            made = time.perf_counter() - start
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
            size = arguments["output"].stat().st_size / 1e6
            start = time.perf_counter()
            with opened(arguments["output"], 1280) as found:
                loaded = (
                    found.page.evaluate(
                        "performance.timing.loadEventEnd - performance.timing.navigationStart"
                    )
                    / 1e3
                )
                start = time.perf_counter()
                found.page.evaluate("document.getElementById('map').scrollIntoView()")
                found.page.wait_for_selector("#map-live[data-drawn]", timeout=120_000)
                drawn = time.perf_counter() - start
                frames = frames_while_dragging(found.page)
        times = f"{loaded:6.2f}  {drawn:5.2f}  {frames:.0f}"
        print(f"{number:6}  {made:6.1f}  {peak:7.0f}  {size:7.1f}  {times}")


if __name__ == "__main__":
    main([int(n) for n in sys.argv[1:]] or [10_000, 100_000])
