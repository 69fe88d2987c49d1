"""What `make status` would have said of the time left at a quarter, half and three quarters of a run.

    python tests/benchmarks/left.py results/demo

Replays the job records of a finished run, with what its files tell now (of a builtin pool: with the
pool; a status at the very begin has none yet).
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "workflow"), str(ROOT / "tests")]

import replay  # noqa: E402
from groupmates.status.left import Estimator  # noqa: E402


def main(run: Path) -> None:
    attempts = replay.records(run)
    begin, end = replay.span(attempts)
    print(f"{run}: {end - begin:,.0f} s")
    print(f"{'at':>5}{'estimate':>12}{'truth':>10}{'factor':>9}")
    for percent in (10, 25, 40, 50, 60, 75, 90):
        now = begin + percent / 100 * (end - begin)
        left = Estimator(run).left(replay.at(run, attempts, now))
        assert left is not None, "its campaign.json holds no configuration: run it again"
        without = f"  without {len(left.unknown)} stages" if left.unknown else ""
        factor = left.seconds / (end - now)
        print(f"{percent:>4} %{left.seconds:>10,.0f} s{end - now:>8,.0f} s{factor:>9.2f}{without}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
