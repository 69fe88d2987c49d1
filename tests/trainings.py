"""Every training of the pipeline as a command line on the tiny run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

import small
import tables
from groupmates.artefacts.store import read_table
from groupmates.models.tokenizer import document_tokens, load_tokenizer
from groupmates.settings import config, per_stage
from groupmates.stages import pretrain_tokens

NAMES = ("base", "moments", "fit", "evaluate", "pretrain")
DOCUMENTS = 30


@dataclass(frozen=True)
class Inputs:
    """What the trainings read beside the artefacts of the tiny run."""

    run: small.Run
    folder: Path


def make_inputs(run: small.Run, folder: Path) -> Inputs:
    rng = np.random.default_rng(0)
    ids = read_table(run.probe_pool, "probe_pool", ["doc_id"])["doc_id"].to_numpy()
    rows = np.stack([rng.choice(len(ids), 3, replace=False) for _ in range(DOCUMENTS)])
    tables.probe(folder / "probe.parquet", ids[rows], rng.normal(size=rows.shape))
    tokenizer = load_tokenizer(run.tokenizer)
    checkpoint = small.tiny_lm(small.NEOX, len(tokenizer), seed=3)
    checkpoint.save_pretrained(folder / "checkpoint")
    documents = small.documents(DOCUMENTS)
    for name, part in (("a", documents[:12]), ("b", documents[12:])):
        small.write_lines(folder / f"pool/{name}.jsonl", part)
    places = [("a.jsonl", i) for i in range(12)] + [("b.jsonl", i) for i in range(DOCUMENTS - 12)]
    tables.selection(
        folder / "select.parquet",
        places,
        pool_of(folder),
        n_tokens=[len(t) for t in document_tokens(tokenizer, [d["text"] for d in documents])],
    )
    for part, ours in enumerate((places[:12], places[12:])):
        selection = tables.selection(folder / f"select-{part}.parquet", ours, pool_of(folder))
        pretrain_tokens.run(
            per_stage.PretrainTokensSettings(seed=0, text_columns=small.COLUMNS),
            pool=pool_of(folder),
            selection=[selection],
            tokenizer=run.tokenizer,
            part=f"{part:05d}",
            output=folder / f"pretrain/random/tokens/part-{part:05d}",
        )
    return Inputs(run, folder)


def pool_of(folder: Path) -> list[str]:
    return small.marked(folder / "pool", sorted((folder / "pool").iterdir()))


def evaluate_settings(**changed: object) -> per_stage.EvaluateSettings:
    training = {
        "tokens": 480,
        "batch_sequences": 2,
        "learning_rate": 1e-2,
        "learning_rate_warmup_steps": 2,
        "points": 4,
    } | changed
    return per_stage.EvaluateSettings(
        seed=0,
        text_columns=small.COLUMNS,
        evaluation_examples=6,
        sequence_length=small.SEQUENCE,
        training=config.EvaluateTraining(**training),
    )


def pretrain_settings(**changed: object) -> per_stage.PretrainSettings:
    """Settings of a training from scratch; `changed` are those of the whole training, or of a stage."""
    fields = {
        "architecture": small.QWEN,
        "optimizer": small.ADAMW,
        "stage": 1,
        "begin": 0.0,
        "end": 1.0,
    }
    training = {
        "tokens": 480,
        "batch_sequences": 2,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "decay_share": 0.3,
        "decay_to": 1e-3,
        "points": 4,
        "milestones": [0.5],
        "save_steps": None,
        "save_total_limit": 2,
    }
    fields |= {name: changed.pop(name) for name in fields.keys() & changed.keys()}
    return per_stage.PretrainSettings(
        seed=0,
        evaluation_examples=6,
        sequence_length=small.SEQUENCE,
        training=config.PretrainTraining(**(training | changed)),
        **fields,
    )


def fit_settings(**changed: object) -> per_stage.FitSettings:
    training = small.fit_settings("lm").training.model_dump() | {"epochs": 3} | changed
    return per_stage.FitSettings(seed=0, fit=small.fit_settings("lm", training=training))


def command(name: str, inputs: Inputs, results: Path, **changed: object) -> list[str]:
    """`python -m groupmates` arguments that write below `results`; `changed` settings."""
    run, folder = inputs.run, inputs.folder
    if name in ("base", "moments"):
        if name == "moments":
            changed |= {"checkpoint": str(folder / "checkpoint"), "optimizer_warmup_steps": 7}
        settings = small.base_settings(**({"training_steps": 7} | changed))
        rest = ["--tokenizer", run.tokenizer, "--training-pool", run.training_pool]
        rest += ["--output", results / "base"]
    elif name == "fit":
        settings = fit_settings(**changed)
        rest = ["--base", run.base, "--tokenizer", run.tokenizer, "--probe-pool", run.probe_pool]
        rest += ["--probes", folder / "probe.parquet", "--output", results / "fit"]
    elif name == "pretrain":
        settings, model = pretrain_settings(**changed), results / "random/seed-0"
        rest = ["--tokens", *sorted((folder / "pretrain/random/tokens").iterdir())]
        rest += ["--start", run.base, "--reference", run.reference, "--number", 0]
        rest += ["--output", model, "--milestones", f"{model}.milestones"]
        for table in ("curve", "examples", "ledger"):
            rest += [f"--{table}", f"{model}.{table}.parquet"]
    else:
        settings = evaluate_settings(**changed)
        rest = ["--base", run.base, "--tokenizer", run.tokenizer, "--reference", run.reference]
        rest += ["--select", folder / "select.parquet"]
        rest += ["--pool", *pool_of(folder), "--number", 0]
        rest += ["--curve", results / "curve.parquet", "--examples", results / "examples.parquet"]
    stage = "base" if name == "moments" else name
    return [stage, "--settings", settings.model_dump_json(), *map(str, rest)]


def artefacts(results: Path) -> dict[str, bytes]:
    """Every file below `results`, hidden ones included."""
    files = [path for path in results.rglob("*") if path.is_file()]
    return {str(path.relative_to(results)): path.read_bytes() for path in sorted(files)}
