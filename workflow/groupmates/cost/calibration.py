"""A small run at the sizes of a large one: `python -m groupmates calibrate`, a few minutes.

Models, sequences, batches, reference and clusters have the configuration's sizes. There are fewer
steps and documents. So its job records are rates of this very work on the profile's machines.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from groupmates.cost.sizes import count_documents
from groupmates.pool.copy_rows import copy_rows
from groupmates.pool.core_tasks import chosen_tasks
from groupmates.pool.documents import read_documents
from groupmates.pool.listing import expand, list_files
from groupmates.pool.opening import exists
from groupmates.settings.config import Config, load
from groupmates.settings.selectors import SELECTORS

STEPS = 12  # of a training
ROLLOUTS = 24
VALIDATION, HELDOUT = 4, 6  # of these rollouts
BOOTSTRAPPED = 8
SETS = 4  # of each kind, whose group influence is probed
DOCUMENTS = 1600  # at least; and two clusters
PROBED = 500
CORE_TASKS, CORE_QUESTIONS = 3, 8
FILES = 2  # of the pool, so that two jobs run at once as in the run itself


def calibrate(profile: str, configfiles: list[str]) -> int:
    """Run the small run and print the plan of the large one; the exit status of snakemake."""
    config = read(["config.yaml", *configfiles])
    folder = Path(f"results/{config.run}-calibration")
    shutil.rmtree(folder, ignore_errors=True)  # another time's rates are no rates of today
    folder.mkdir(parents=True)
    small = folder / "config.yaml"
    small.write_text(yaml.safe_dump(reduced(config, pool_sample(config, folder))))
    snakemake = [sys.executable, "-m", "snakemake", "--profile", profile]
    large = ["--configfile", *configfiles] if configfiles else []
    of_small = [*snakemake, "--configfile", str(small), "--"]
    wanted = ["all", "pretrain"] if config.pretrain.methods else ["all"]
    asks = config.core.models or config.core.pretrained
    for command in (
        [*of_small, *wanted],
        *([[*of_small, "core"]] if asks else []),
        [*of_small, "plan"],
        [*snakemake, *large, "--", "plan"],
    ):
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    return 0


def read(paths: list[str]) -> Config:
    """Configuration files, the later over the earlier."""
    raw: dict[str, Any] = {}
    for path in paths:
        raw = merged(raw, yaml.safe_load(Path(path).read_text()) or {})
    return load(raw)


def merged(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two configurations, section by section, as snakemake merges them."""
    both = {
        key: merged(one[key], value)
        for key, value in other.items()
        if isinstance(value, dict) and isinstance(one.get(key), dict)
    }
    return one | other | both


def documents_wanted(config: Config) -> int:
    """Documents of the small run: two clusters of the size that the large run has."""
    cluster, documents = config.cluster, config.plan.pool.documents
    if cluster.target_size is not None:
        return max(DOCUMENTS, 2 * cluster.target_size)
    assert cluster.clusters is not None
    if documents is None and config.pool.paths == "builtin":
        documents = config.corpus.documents
    if documents is None:
        files = list_files(list(config.pool.paths))
        documents = count_documents(files, [f for f in files if exists(f.path)])[0]
    return max(DOCUMENTS, 2 * documents // cluster.clusters)


def pool_sample(config: Config, folder: Path) -> list[str] | None:
    """The first documents of two pool files, copied to `folder`; None: the built-in corpus.

    The built-in corpus stands in for a pool that is not there yet, too.
    """
    if config.pool.paths == "builtin":
        return None
    there = [f for f in list_files(list(config.pool.paths)) if exists(f.path)]
    if not there:
        return None
    wanted, found = -(-documents_wanted(config) // FILES), []
    for number in range(FILES):
        file = there[number % len(there)]
        first = number // len(there) * wanted  # of a pool of one file: its next documents
        documents = islice(read_documents(file, config.pool.columns, []), first + wanted)
        rows = max((d.row + 1 for d in documents), default=0)
        if rows <= first:
            break
        copy = folder / "pool" / f"part-{number}-{Path(file.name).name}"
        copy.parent.mkdir(exist_ok=True)
        copy_rows(file, np.arange(first, rows), copy)
        found.append(str(copy))
    return found


def reduced(config: Config, pool: list[str] | None) -> dict[str, Any]:
    """The configuration of the small run, complete."""
    raw = config.model_dump(mode="json")
    documents = documents_wanted(config)
    raw["run"] = f"{config.run}-calibration"
    _reduce_inputs(raw, config, documents, pool)
    _reduce_base(raw, config)
    _reduce_probing(raw, config)
    _reduce_selection(raw, config, documents)
    _reduce_core(raw, config)
    raw["plan"] |= {"rates": None, "pool": dict.fromkeys(raw["plan"]["pool"])}
    return load(raw).model_dump(mode="json")


def _reduce_inputs(
    raw: dict[str, Any], config: Config, documents: int, pool: list[str] | None
) -> None:
    if pool is None:
        raw["pool"] |= {"paths": "builtin", "columns": {"text": "text", "id": None, "source": None}}
        raw["corpus"] = {"documents": min(documents, 10_000), "files": FILES}
    else:
        raw["pool"]["paths"] = pool
    # Of its few records more may be bad.
    raw["pool"] |= {"files_per_shard": 1, "shard_mb": None, "max_bad_share": 1.0}
    if config.reference.paths != "builtin":
        patterns = [*config.reference.paths, *(config.reference.evaluation_paths or [])]
        if not all(Path(path).exists() for path in expand(patterns, "reference.paths")):
            raw["reference"] |= {"paths": "builtin", "evaluation_paths": None}
    probed = _probed(config)
    training = min(config.sample.training_documents, documents - probed)
    raw["sample"] |= {"paths": None, "probe_documents": probed, "training_documents": training}
    if config.sample.tokenizer and not Path(config.sample.tokenizer).is_dir():
        raw["sample"]["tokenizer"] = None


def _reduce_core(raw: dict[str, Any], config: Config) -> None:
    """A few questions to one model: the first that is there, or the base model of the small run."""
    core, folder = config.core, f"results/{raw['run']}/base"
    if core.models or core.pretrained:
        assert core.data is not None
        there = {name: path for name, path in core.models.items() if Path(path).is_dir()}
        name = next(iter(there), "base")
        tasks = list(chosen_tasks(core.data, core.tasks))
        raw["core"] |= {
            "models": {name: there.get(name, folder)},
            "pretrained": False,
            "tasks": tasks[:: -(-len(tasks) // CORE_TASKS)],
            "examples": min(core.examples or CORE_QUESTIONS, CORE_QUESTIONS),
        }


def _probed(config: Config) -> int:
    return min(config.sample.probe_documents, PROBED)


def _reduce_base(raw: dict[str, Any], config: Config) -> None:
    """Fewer steps; a checkpoint that is not there is made, of the planned shape."""
    raw["base"] |= {
        "training_steps": min(config.base.training_steps, STEPS),
        "optimizer_warmup_steps": min(config.base.optimizer_warmup_steps, STEPS),
    }
    planned = config.plan.checkpoint
    if config.base.checkpoint and not Path(config.base.checkpoint).is_dir() and planned:
        raw["base"] |= {
            "checkpoint": None,
            "training_steps": STEPS,
            "architecture": {
                "family": "gpt_neox",
                "hidden_size": planned.hidden_size,
                "layers": planned.layers,
                "heads": max(1, planned.hidden_size // 128),
            },
        }


def _reduce_probing(raw: dict[str, Any], config: Config) -> None:
    raw["probe"]["shards"] = min(config.probe.shards, 2)
    raw["probe"]["random"]["rollouts"] = ROLLOUTS
    bootstrap = raw["probe"]["bootstrap"]
    if bootstrap["rollouts"]:
        room = bootstrap["max_appearances"] * _probed(config) // config.probe.rollout_length
        bootstrap |= {
            "rollouts": min(BOOTSTRAPPED, room),
            "beam_width": max(BOOTSTRAPPED, min(bootstrap["beam_width"], room // 2)),
        }
    groups = raw["probe"]["groups"]
    groups |= {
        "sets": min(groups["sets"], SETS),
        "sizes": sorted({min(size, _probed(config)) for size in groups["sizes"]}),
    }
    raw["fit"] |= {"validation_rollouts": VALIDATION, "heldout_rollouts": HELDOUT}
    raw["fit"]["training"]["epochs"] = min(config.fit.training.epochs, STEPS)
    raw["accept"]["minimum_spearman"] = -1.0  # so few rollouts predict nothing
    raw["distil"]["minimum_spearman"] = -1.0


def _reduce_selection(raw: dict[str, Any], config: Config, documents: int) -> None:
    raw["cluster"] |= {"clusters": None, "target_size": max(1, documents // 2)}
    if config.cluster.target_size is not None:
        raw["cluster"]["target_size"] = config.cluster.target_size
    raw["select"]["partitions"] = 1
    for name, kind in SELECTORS.items():
        variants = [v for v in raw["select"]["variants"].values() if v["method"] == name]
        for section in (raw["select"].get(name, {}), *variants):
            for key, most in kind.calibration.items():
                if key in section:
                    section[key] = min(section[key], most)
    if config.select.budget.tokens is not None:
        raw["select"]["budget"] = {"ratio": 0.5, "tokens": None}
    raw["evaluate"]["seeds"] = raw["pretrain"]["seeds"] = 1
    for training in (raw["evaluate"]["training"], raw["pretrain"]):
        step = training["batch_sequences"] * config.sample.sequence_length
        training["tokens"] = min(training["tokens"], STEPS * step)
        training["points"] = min(training["points"], 3)
    raw["pretrain"] |= {"milestones": [], "save_steps": None, "max_passes": None, "stages": [1.0]}
