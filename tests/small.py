"""A tiny run, made through the stages themselves: 40 documents, a model of a few thousand weights."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from groupmates.artefacts.store import Provenance, write_folder_provenance
from groupmates.maths.labels import LabelScale
from groupmates.models.influence import InfluenceModel, make_encoder
from groupmates.models.language_model import make_lm
from groupmates.models.tokenizer import load_tokenizer
from groupmates.settings import config, per_stage
from groupmates.settings.sections import StepRate
from groupmates.stages import base, check, draw_rollouts, reference, sample

SENTENCE = (
    "a river runs below the old stone bridge while seven small boats wait for wind and rain because "
    "nobody told their captains that summer had ended early this strange cold year"
)
WORDS = SENTENCE.split()
SEQUENCE = 24
LENGTH = 3  # of a rollout
CLS, SEP = 2, 3
VOCABULARY = {"[PAD]": 0, "[UNK]": 1, "[CLS]": CLS, "[SEP]": SEP} | {
    f"w{i}": 4 + i for i in range(40)
}
ROOM = 6  # of a chunk of 8 tokens
COLUMNS = config.PoolColumns(text="text", id="id", source=None)
ADAMW = config.Optimizer(
    learning_rate=1e-2,
    beta1=0.9,
    beta2=0.95,
    epsilon=1e-8,
    weight_decay=0.033,
    clip_norm=1.0,
    z_loss=1e-4,
)
RATE = StepRate(factor=1.0, absolute=None)
LLAMA = config.Architecture(family="llama", hidden_size=16, layers=1, heads=2)
NEOX = config.Architecture(family="gpt_neox", hidden_size=16, layers=1, heads=2)
QWEN = config.Architecture(family="qwen3", hidden_size=16, layers=1, heads=2)


@dataclass(frozen=True)
class Run:
    """Paths of a run's artefacts."""

    folder: Path
    pool: Path
    tokenizer: Path
    probe_pool: Path
    training_pool: Path
    reference: Path
    base: Path
    rollouts: Path


def documents(number: int = 40) -> list[dict[str, str]]:
    """Documents of 8 to 40 words, each with an id of its own."""
    rng = np.random.default_rng(7)
    return [
        {"id": f"doc-{i:03d}", "text": " ".join(rng.choice(WORDS, rng.integers(8, 40)))}
        for i in range(number)
    ]


def reference_examples(number: int = 16) -> list[dict[str, str]]:
    rng = np.random.default_rng(8)
    return [
        {
            "context": " ".join(rng.choice(WORDS, rng.integers(2, 8))),
            "continuation": " " + " ".join(rng.choice(WORDS, rng.integers(1, 6))) + f" {i}",
        }
        for i in range(number)
    ]


def write_lines(path: Path, rows: list[dict[str, str]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def sample_settings(
    probe_documents: int = 24,
    training_documents: int = 16,
    bad_records: str = "stop",
    **changed: object,
) -> per_stage.SampleSettings:
    fields = {
        "paths": None,
        "sequence_length": SEQUENCE,
        "tokenizer": None,
        "vocabulary_size": 300,
        "special_tokens_in_text": False,
        "end_of_text": None,
    } | changed
    return per_stage.SampleSettings(
        seed=0,
        text_columns=COLUMNS,
        bad_records=bad_records,
        checkpoint=None,
        sample=config.Sample(
            probe_documents=probe_documents, training_documents=training_documents, **fields
        ),
    )


def reference_settings(**changed: object) -> per_stage.ReferenceSettings:
    fields = {"loss_on": "continuation", "evaluation_share": 0.5, "max_tokens": SEQUENCE} | changed
    delimiter = fields.pop("delimiter", " ")
    split = config.ReferenceSplit(**fields)
    return per_stage.ReferenceSettings(seed=0, delimiter=delimiter, split=split)


def base_settings(**changed: object) -> per_stage.BaseSettings:
    fields = {
        "checkpoint": None,
        "architecture": LLAMA,
        "optimizer": ADAMW,
        "training_steps": 5,
        "optimizer_warmup_steps": 3,
        "batch_sequences": 2,
        "learning_rate_warmup_steps": 2,
    } | changed
    return per_stage.BaseSettings(seed=0, sequence_length=SEQUENCE, base=config.Base(**fields))


def plan_settings(rollouts: int = 7) -> per_stage.RandomPlanSettings:
    return per_stage.RandomPlanSettings(
        seed=0, rollout_length=LENGTH, random=config.RandomRound(rollouts=rollouts)
    )


def marked(root: str | Path, paths: Iterable[str | Path]) -> list[str]:
    """Pool files for a command line; their names are their paths below `root`."""
    return [f"{root}/./{str(path).removeprefix(f'{root}/')}" for path in paths]


def check_settings(
    bad_records: str = "stop", max_bad_share: float = 0.01
) -> tuple[per_stage.CheckSettings, per_stage.CheckPoolSettings]:
    """Settings of the check of a shard, and of the pool."""
    fields = {"text_columns": COLUMNS, "bad_records": bad_records}
    return per_stage.CheckSettings(**fields), per_stage.CheckPoolSettings(
        **fields, max_bad_share=max_bad_share
    )


def check_pool(
    shards: list[list[str]],
    folder: Path,
    bad_records: str = "stop",
    max_bad_share: float = 0.01,
) -> list[Path]:
    """Check a pool of these shards; their lists. files.parquet and rejects.parquet lie beside them."""
    of_shard, of_pool = check_settings(bad_records, max_bad_share)
    written = [folder / f"shard-{i:05d}.parquet" for i in range(len(shards))]
    for pool, output in zip(shards, written, strict=True):
        check.run(of_shard, pool=pool, output=output)
    check.run_pool(
        of_pool,
        pool=[path for pool in shards for path in pool],
        check=written,
        output=folder / "files.parquet",
        rejects=folder / "rejects.parquet",
    )
    return written


def make_run(folder: Path) -> Run:
    run = Run(
        folder=folder,
        pool=write_lines(folder / "pool/a.jsonl", documents()),
        tokenizer=folder / "sample/tokenizer",
        probe_pool=folder / "sample/probe_pool.parquet",
        training_pool=folder / "sample/training_pool.parquet",
        reference=folder / "sample/reference.parquet",
        base=folder / "base",
        rollouts=folder / "probe/random/rollouts.parquet",
    )
    sample.run(
        sample_settings(),
        pool=marked(run.pool.parent, [run.pool]),
        tokenizer=run.tokenizer,
        probe_pool=run.probe_pool,
        training_pool=run.training_pool,
    )
    reference.run(
        reference_settings(),
        reference=[write_lines(folder / "reference.jsonl", reference_examples())],
        tokenizer=run.tokenizer,
        output=run.reference,
    )
    base.run(
        base_settings(), tokenizer=run.tokenizer, training_pool=run.training_pool, output=run.base
    )
    draw_rollouts.run_random(plan_settings(), probe_pool=run.probe_pool, output=run.rollouts)
    return run


def dropout_base(run: Run, folder: Path) -> Path:
    """The base of a GPT-2 that is trained with dropout."""
    torch.manual_seed(0)
    rows = len(load_tokenizer(run.tokenizer))
    shape = {"vocab_size": rows, "n_positions": SEQUENCE, "n_embd": 16, "n_layer": 1, "n_head": 2}
    GPT2LMHeadModel(GPT2Config(**shape, resid_pdrop=0.3)).save_pretrained(folder / "gpt2")
    base.run(
        base_settings(checkpoint=str(folder / "gpt2")),
        tokenizer=run.tokenizer,
        training_pool=run.training_pool,
        output=folder / "base",
    )
    return folder / "base"


def tiny_lm(architecture: config.Architecture = LLAMA, vocabulary: int = 50, seed: int = 0):
    """A language model of random weights; biases and norms too, so that none is a special case."""
    model = make_lm(architecture, vocabulary, positions=64, end_of_text=0, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def bert_folder(folder: Path) -> Path:
    """A random BERT and its WordPiece tokenizer of whole words."""
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=len(VOCABULARY),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=16,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words = Tokenizer(models.WordPiece(VOCABULARY, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {f"{n.lower()}_token": f"[{n}]" for n in ("PAD", "UNK", "CLS", "SEP")}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return folder


def words(number: int, seed: int = 0) -> str:
    """A text of the tiny BERT's words."""
    return " ".join(f"w{i}" for i in np.random.default_rng(seed).integers(0, 40, number))


def fit_settings(name: str, kernel: str = "mean", **changed: object) -> config.Fit:
    """Settings of a fit; `name` is that of the encoder."""
    training = {
        "epochs": 20,
        "batch_rollouts": 8,
        "learning_rate": 1e-2,
        "warmup_steps": 2,
        "weight_decay": 0.0,
        "dropout": 0.1,
    }
    fields = {
        "encoder": {
            "name": name,
            "embedding_size": 8,
            "chunk_tokens": ROOM + 2,
            "chunks": 4,
            "pooling": "first",
            "learning_rate": 1e-3,
        },
        "relation": {"kernel": kernel, "sharpness": 4.0},
        "standardise": "per_position",
        "validation_rollouts": 4,
        "heldout_rollouts": 8,
        "training": training,
    } | changed
    return config.Fit.model_validate(fields)


def influence_model(run: Run, folder: Path) -> Path:
    """An influence model with random head on the run's language model."""
    torch.manual_seed(0)
    settings = fit_settings("lm")
    fitted = InfluenceModel(settings, make_encoder(settings, run.base))
    torch.nn.init.normal_(fitted.head.weight)
    fitted.save(folder)
    load_tokenizer(run.tokenizer).save_pretrained(folder / "tokenizer")
    scale = LabelScale(np.zeros(3), np.ones(3))
    (folder / "relation.json").write_text(json.dumps(fitted.relation_record(scale)))
    write_folder_provenance(folder, "fit", Provenance("test", {}))
    return folder
