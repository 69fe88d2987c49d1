"""Configurations to plan, without a run."""

from __future__ import annotations

import yaml

import checkout
from groupmates.cost.calibration import merged


def configuration(path: str | None = None, **changed) -> dict:
    """config.yaml with the smallest run's settings, or those of a file, and these changes."""
    base = yaml.safe_load((checkout.REPOSITORY / "config.yaml").read_text())
    over = yaml.safe_load((checkout.REPOSITORY / path).read_text()) if path else checkout.TINY
    return merged(merged(base, over), changed)
