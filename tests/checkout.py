"""A copy of the workflow in an empty folder, and the smallest configuration that runs it all."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml
import zstandard

import waiting

REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULTS = yaml.safe_load((REPOSITORY / "config.yaml").read_text())

TINY = {
    "run": "tiny",
    "corpus": {"documents": 350, "files": 7},
    "pool": {"files_per_shard": 3},
    "reference": {"selection_examples": 6, "evaluation_examples": 12, "split": {"max_tokens": 24}},
    "sample": {
        "probe_documents": 60,
        "training_documents": 60,
        "sequence_length": 32,
        "vocabulary_size": 400,
    },
    "base": {
        "architecture": {"hidden_size": 32, "layers": 1, "heads": 2},
        "training_steps": 6,
        "batch_sequences": 4,
    },
    "probe": {
        "labels": "rollouts",  # what has two rounds and two models
        "rollout_length": 3,
        "random": {"rollouts": 16},
        "bootstrap": {"rollouts": 6, "beam_width": 8, "max_appearances": 4},
        "groups": {"sets": 4, "sizes": [2, 3]},
    },
    "fit": {
        "encoder": {"embedding_size": 16},
        "validation_rollouts": 3,
        "heldout_rollouts": 4,
        "training": {"epochs": 2},
    },
    "accept": {"minimum_spearman": -1},
    "distil": {"minimum_spearman": -1},
    "cluster": {"target_size": 40, "iterations": 5},
    "evaluate": {"seeds": 2, "training": {"tokens": 1024, "batch_sequences": 4, "points": 3}},
}


# Those of TINY; the profiles name them.
GPU_STAGES = {"base", "plan-bootstrap", "probe", "fit", "plan-groups", "probe-groups", "score"}
GPU_STAGES |= {"centroids", "cluster", "evaluate"}


def make(folder: Path, settings: dict | None = None) -> Path:
    """What a clone holds of the workflow, with `settings` (default TINY) in settings.yaml."""
    folder.mkdir(exist_ok=True)
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(REPOSITORY / name, folder / name)
    for name in ("workflow", "profiles", "envs"):
        shutil.copytree(
            REPOSITORY / name,
            folder / name,
            ignore=shutil.ignore_patterns("__pycache__"),
            symlinks=True,
        )
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings or TINY))
    return folder


def configure(folder: Path, change: dict) -> Path:
    """TINY with other values in the settings of a checkout."""
    (folder / "settings.yaml").write_text(yaml.safe_dump(merged(TINY, change)))
    return folder


def copy(run: Path, folder: Path, change: dict | None = None) -> Path:
    """A run of TINY once more, to be gone on with."""
    return configure(shutil.copytree(run, folder / "copy", symlinks=True), change or {})


def merged(settings: dict, change: dict) -> dict:
    """`settings` with the entries of `change`, section by section, as snakemake merges them."""
    common = settings.keys() & change.keys()
    both = {k: merged(settings[k], change[k]) for k in common if isinstance(change[k], dict)}
    return settings | change | both


# For each profile, what a small machine and an impatient test want otherwise.
PROFILES = {
    "local": ["--profile", "profiles/local", "--cores", "2"],
    "slurm": [
        *("--profile", "profiles/slurm", "--jobs", "4", "--latency-wait", "20"),
        *("--slurm-init-seconds-before-status-checks", "1"),
    ],
}
PROFILES["patient slurm"] = PROFILES["slurm"]


# What runs it: for tests on SLURM one that does not wait longer from look to look.
IMPATIENT = REPOSITORY / "tests/slurm/impatient.py"


def arguments(*more: str, profile: str = "local") -> list[str]:
    return [*PROFILES[profile], "--configfile", "settings.yaml", *more]


def command(*more: str, profile: str = "local") -> list[str]:
    program = [str(IMPATIENT)] if profile == "slurm" else ["-m", "snakemake"]
    return [sys.executable, *program, *arguments(*more, profile=profile)]


def snakemake(
    folder: Path, *arguments: str, profile: str = "local", env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run snakemake in `folder`; output and errors together in `stdout`."""
    return waiting.run(command(*arguments, profile=profile), folder, env)


def lines(path: Path) -> list[bytes]:
    return zstandard.ZstdDecompressor().stream_reader(path.open("rb")).read().splitlines()


def table(shown: str) -> dict[str, int]:
    """Jobs by rule, as a dry run tells them."""
    found = dict(re.findall(r"^(\w+) +(\d+)$", shown, re.MULTILINE))
    return {rule: int(jobs) for rule, jobs in found.items() if rule not in ("all", "total")}


def selections(folder: Path) -> dict[str, bytes]:
    """What a run has selected: the tables and the datasets, byte by byte."""
    root = folder / "results/tiny"
    files = [*root.glob("select/*/shard-*.parquet"), *root.glob("dataset/**/*.jsonl.zst")]
    return {str(f.relative_to(root)): f.read_bytes() for f in sorted(files)}
