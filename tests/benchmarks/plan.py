"""How a plan compares with the run that followed it, stage by stage.

    PYTHONPATH=workflow python tests/benchmarks/plan.py results/demo

Before: `make calibrate`, and then `make demo`. The factor is what was taken over what was planned: the
machine should have nothing else to do.
"""

from __future__ import annotations

import sys
from pathlib import Path

from groupmates.cost.compare import compare, read_plan

run = Path(sys.argv[1])
planned = read_plan(run / "plan.json")
if planned is None:
    sys.exit(f"no plan in {run}: make calibrate plans it")
print(f"{'stage':<18}{'jobs':>5}{'planned s':>11}{'taken s':>9}{'factor':>8}", end="")
print(f"{'planned MB':>12}{'peak MB':>9}")
rows = compare(planned, run / "logs")
for row in rows:
    expected = "-" if row.planned_seconds is None else f"{row.planned_seconds:.1f}"
    factor = "-" if row.factor is None else f"{row.factor:.2f}"
    print(f"{row.stage:<18}{row.jobs:>5}{expected:>11}{row.taken_seconds:>9.1f}", end="")
    print(f"{factor:>8}{row.planned_bytes / 1e6:>12.0f}", end="")
    print(f"{row.peak_bytes / 1e6:>9.0f}")
known = [row for row in rows if row.planned_seconds is not None]
before = sum(row.planned_seconds for row in known)
after = sum(row.taken_seconds for row in known)
print(f"{'all':<23}{before:>11.1f}{after:>9.1f}{after / before:>8.2f}")
