"""The `base` artefact, or a pretrained model in its place, as live objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from groupmates.artefacts.catalogue import ADAMW_STATE
from groupmates.artefacts.store import checkpoint_kind, read_folder_json
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.settings.config import Optimizer

TRAINING = "training.json"


def broken_base(expected: str, found: str, base: Path) -> UserError:
    """The base model computes what is no number."""
    return UserError(
        expected=expected,
        found=found,
        where=str(base),
        todo="correct the weights of base.checkpoint, or lower base.optimizer.learning_rate where "
        "the base model is trained here",
    )


def open_model(folder: Path) -> tuple[PreTrainedModel, Optimizer]:
    """The model without AdamW's state, and the settings it was trained with."""
    training = read_folder_json(folder, checkpoint_kind(folder), TRAINING)
    return lm.load_lm(folder), Optimizer.model_validate(training["optimizer"])


def open_base(folder: Path) -> tuple[PreTrainedModel, torch.optim.AdamW, Optimizer]:
    """Model (in training mode) and AdamW at the checkpoint, with the checkpoint's own settings."""
    model, hyper = open_model(folder)
    model.train()
    optimizer = lm.make_optimizer(model, hyper)
    lm.load_optimizer(optimizer, model, folder / ADAMW_STATE)
    return model, optimizer, hyper


def save_checkpoint(
    folder: Path,
    model: PreTrainedModel,
    optimizer: torch.optim.AdamW,
    tokenizer: PreTrainedTokenizerBase,
    training: dict[str, Any],
) -> None:
    """Fill a folder with all that `open_base` and users' `base.checkpoint` need.

    `training`: the content of training.json; its "optimizer" are the settings of AdamW.
    """
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    lm.save_optimizer(optimizer, model, folder / ADAMW_STATE)
    (folder / TRAINING).write_text(json.dumps(training, indent=2, sort_keys=True) + "\n")
