"""The `base` artefact as live objects."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedModel

from groupmates.artefacts.catalogue import ADAMW_STATE
from groupmates.artefacts.store import read_folder_json
from groupmates.errors import UserError
from groupmates.models import language_model as lm
from groupmates.settings.config import Optimizer


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
    hyper = Optimizer.model_validate(read_folder_json(folder, "base", "training.json")["optimizer"])
    return lm.load_lm(folder), hyper


def open_base(folder: Path) -> tuple[PreTrainedModel, torch.optim.AdamW, Optimizer]:
    """Model (in training mode) and AdamW at the checkpoint, with the checkpoint's own settings."""
    model, hyper = open_model(folder)
    model.train()
    optimizer = lm.make_optimizer(model, hyper)
    lm.load_optimizer(optimizer, model, folder / ADAMW_STATE)
    return model, optimizer, hyper
