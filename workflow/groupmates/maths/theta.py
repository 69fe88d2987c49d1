"""Predicted influence within rollouts: the relational data influence model (method section 3).

Legend: B rollouts, T steps, D embedding size. Lower is better.
"""

from __future__ import annotations

import torch


def rollout_theta(
    individual_BT: torch.Tensor,
    emb_BTD: torch.Tensor,
    alpha: torch.Tensor,
    beta: torch.Tensor,
    kernel: str,
    sharpness: float,
) -> torch.Tensor:
    """theta(x_t | x_1 ... x_{t-1}) of every step, float [B, T].

    mean (paper): [alpha - alpha / (beta (t-1)) sum_{i<t} h_i . h_t] * individual_t. nearest: the
    mean is replaced by max_{i<t} max(0, h_i . h_t) ** sharpness. The first step has nothing before it:
    theta is the individual influence. A rollout sees only its own steps.
    """
    steps = emb_BTD.shape[1]
    similarity = emb_BTD @ emb_BTD.transpose(1, 2)
    earlier = torch.ones(steps, steps, device=emb_BTD.device).tril(-1)
    if kernel == "mean":
        count = torch.arange(steps, device=emb_BTD.device).clamp_min(1)
        related = (similarity * earlier).sum(-1) / count
    else:
        related = ((similarity.clamp_min(0) ** sharpness) * earlier).amax(-1)
    factor = alpha - alpha / beta * related
    factor = torch.where(torch.arange(steps, device=factor.device) == 0, 1.0, factor)
    return factor * individual_BT
