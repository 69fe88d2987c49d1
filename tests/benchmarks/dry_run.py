"""Seconds that `snakemake -n` takes for a configuration, and which part of them is what.

    python tests/benchmarks/dry_run.py [workflow/configs/dclm-400m-4x.yaml] [--repeats 3]

For the paper's configuration that is a plan of more than a thousand jobs, pool and checkpoint need
not be there. "load" is the start of snakemake itself, "parse" reads the rules as well.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

SNAKEMAKE = [sys.executable, "-m", "snakemake"]


def seconds(command: list[str], repeats: int) -> tuple[float, str]:
    taken, shown = [], ""
    for _ in range(repeats):
        start = time.monotonic()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        taken.append(time.monotonic() - start)
        shown = done.stdout + done.stderr
    return statistics.median(taken), shown


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", nargs="?", default="workflow/configs/dclm-400m-4x.yaml")
    parser.add_argument("--profile", default="profiles/local")
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    plan = [*SNAKEMAKE, "--profile", given.profile, "--configfile", given.config]
    for label, command in (
        ("load", [*SNAKEMAKE, "--version"]),
        ("parse", [*plan, "--list-rules"]),
        ("dry run", [*plan, "-n", "--quiet", "rules"]),
        ("plan", [*plan, "--quiet", "all", "--nolock", "--", "plan"]),
    ):
        taken, shown = seconds(command, given.repeats)
        total = [line for line in shown.splitlines() if line.startswith("total ")]
        print(f"{label:<8}{taken:6.2f} s  {' '.join(total[0].split()) if total else ''}")


if __name__ == "__main__":
    main()
