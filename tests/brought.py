"""Tokenizers and checkpoints as users bring them, and a sample that is drawn with such a tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import small
from groupmates.models.tokenizer import END_OF_TEXT, train_tokenizer
from groupmates.settings import config, per_stage
from groupmates.stages import reference, sample

FOREIGN = "日本語の文章。" * 20  # longer than what a text is judged by at first
SPECIAL = "<|picture|>"
PAST = "fog"  # a word that no document of `small` has
GAP = 100


def bytes_tokenizer(folder: Path, texts: list[str] | None = None) -> Path:
    """Every text has tokens."""
    known = texts or [d["text"] for d in small.documents()]
    train_tokenizer(known, 300).save_pretrained(folder)
    return folder


def words_tokenizer(folder: Path) -> Path:
    """BPE on characters of words, without a token for those it does not know."""
    letters = {END_OF_TEXT: 0} | {c: i for i, c in enumerate("abcdefghijklmnopqrstuvwxyz", 1)}
    words = Tokenizer(models.BPE(letters, []))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token=END_OF_TEXT).save_pretrained(folder)
    return folder


def longer_tokenizer(folder: Path) -> tuple[Path, int]:
    """A tokenizer with one special and one plain token past the embedding; rows of the embedding."""
    tokenizer = train_tokenizer([d["text"] for d in small.documents()], 300)
    rows = len(tokenizer)
    tokenizer.add_special_tokens({"additional_special_tokens": [SPECIAL]})
    tokenizer.add_tokens([PAST])
    tokenizer.save_pretrained(folder)
    return folder, rows


def gapped_tokenizer(folder: Path) -> int:
    """A tokenizer whose ids above 100 lie GAP higher; its largest id."""
    bytes_tokenizer(folder)
    path = folder / "tokenizer.json"
    told = json.loads(path.read_text())
    vocabulary = told["model"]["vocab"]
    moved = {token: i + GAP * (i > 100) for token, i in vocabulary.items()}
    path.write_text(json.dumps(told | {"model": told["model"] | {"vocab": moved}}))
    return max(moved.values())


def projected_opt(folder: Path, vocabulary: int) -> PreTrainedModel:
    """OPT whose hidden states are projected to half their size in the end, as OPT-350M's are."""
    torch.manual_seed(0)
    model = OPTForCausalLM(
        OPTConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            word_embed_proj_dim=8,
            ffn_dim=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=64,
            do_layer_norm_before=False,
            dropout=0.0,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model


@dataclass(frozen=True)
class Sampled:
    """Paths of a run's first artefacts."""

    folder: Path
    pool: Path
    tokenizer: Path
    probe_pool: Path
    training_pool: Path
    reference: Path


def sampled(
    folder: Path,
    tokenizer: Path,
    documents: list[dict[str, str]] | None = None,
    examples: list[dict[str, str]] | None = None,
    **changed: object,
) -> Sampled:
    """Sample and reference, drawn through the stages."""
    run = Sampled(
        folder=folder,
        pool=small.write_lines(folder / "pool/a.jsonl", documents or small.documents()),
        tokenizer=folder / "sample/tokenizer",
        probe_pool=folder / "sample/probe_pool.parquet",
        training_pool=folder / "sample/training_pool.parquet",
        reference=folder / "sample/reference.parquet",
    )
    sample.run(
        small.sample_settings(
            tokenizer=str(tokenizer), **{"special_tokens_in_text": False} | changed
        ),
        pool=[str(run.pool)],
        tokenizer=run.tokenizer,
        probe_pool=run.probe_pool,
        training_pool=run.training_pool,
    )
    split = {"loss_on": "continuation", "evaluation_share": 0.5, "max_tokens": small.SEQUENCE}
    examples = examples or small.reference_examples()
    reference.run(
        per_stage.ReferenceSettings(
            seed=0, delimiter=" ", split=config.ReferenceSplit.model_validate(split)
        ),
        reference=[str(small.write_lines(folder / "reference.jsonl", examples))],
        tokenizer=run.tokenizer,
        output=run.reference,
    )
    return run
