"""Pretrained models of a made-up run, whose gains are known by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

import attempts
import checkout
import tables
from groupmates.artefacts.store import Provenance
from groupmates.settings.config import Config, load
from groupmates.settings.per_stage import PretrainSettings

PLAIN = yaml.safe_load((checkout.REPOSITORY / "config.yaml").read_text())
TOKENS = 8_000
HOUR = 3600.0
TASK = {
    "name": "copa",
    "file": "copa.jsonl",
    "type": "multiple_choice",
    "num_fewshot": 0,
    "continuation_delimiter": " ",
    "random_baseline": 50.0,
    "random_baseline_dclm_v2": 50.0,
}


def config(run: str, methods: list[str], **changed: Any) -> Config:
    sizes = {"documents": 1000, "tokens_per_document": 100, "text_bytes_per_document": 400}
    ours = {
        "run": run,
        "select": {"methods": methods},
        "pretrain": {"methods": methods, "seeds": 2, "tokens": TOKENS, **changed},
        "plan": {"pool": sizes | {"file_bytes_per_document": 200}, "reference_tokens": 50},
    }
    return load(checkout.merged(PLAIN, ours))


def record(run: Path, rule: str, cpu_hours: float, **more: Any) -> None:
    """Of a finished job; `more`: wildcards, and fields of the attempt."""
    fields = {
        k: more.pop(k) for k in ("device", "gpu_peak_bytes", "phases", "seconds") if k in more
    }
    named = {"stage": rule.replace("_", "-"), "rule": rule, "wildcards": more}
    if rule == "pretrain_model":
        named["stage"] = "pretrain"
    name = "_".join([rule, *(str(value).replace("/", "_") for value in more.values())])
    attempt = attempts.attempt(cpu_seconds=cpu_hours * HOUR, **named, **fields)
    (run / "logs").mkdir(parents=True, exist_ok=True)
    (run / f"logs/{name}.json").write_text(json.dumps({"attempts": [attempt]}))


def training(
    run: Path,
    made_by: Config,
    method: str,
    seed: int,
    losses: list[float],
    line: str = "",
    begin: int = 0,
    end: int = TOKENS,
) -> list[Path]:
    """Curve, examples and model of a training; `losses` at equal distances from `begin` to `end`."""
    folder = run / line / "pretrain" / method
    (folder / f"seed-{seed}").mkdir(parents=True)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "vocab_size": 16}
    (folder / f"seed-{seed}/config.json").write_text(json.dumps(shape))
    stage = int(line.split("/")[1]) if line else 1
    made = Provenance.of("pretrain", PretrainSettings.of_stage(made_by, stage))
    tokens = np.linspace(begin, end, len(losses) + bool(begin)).astype(int)[bool(begin) :]
    columns = {"tokens": tokens, "step": tokens, "heldout_nats": losses}
    curve = tables.write(folder / f"seed-{seed}.parquet", "pretrain_curve", made, **columns)
    examples = tables.write(
        folder / f"seed-{seed}.examples.parquet",
        "pretrain_examples",
        example_id=["a", "b"],
        loss_sum_nats=[losses[-1] * 10, losses[-1] * 10],
        label_tokens=[10, 10],
    )
    return [curve, examples, folder / f"seed-{seed}"]


def predictions(run: Path, model: str, correct: list[bool], bits: list[float]) -> Path:
    """Of a task with answers of one byte each."""
    return tables.write(
        run / f"core/{model}/copa.parquet",
        "core_predictions",
        Provenance("core", {"task": TASK}),
        correct=correct,
        answer_nats=np.array(bits) * np.log(2),
        answer_bytes=[1] * len(correct),
        option_nats=[[0.0, 0.0]] * len(correct),
    )
