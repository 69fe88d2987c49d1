"""Labels of the influence model: standardised oracle influences, and how well they are predicted.

Legend: R rollouts, T steps. Influences in nats, lower is better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelScale:
    """Centre and scale of the influences at each step [T], in nats."""

    mean: np.ndarray
    std: np.ndarray

    def standardise(self, influence_RT: np.ndarray) -> np.ndarray:
        return (influence_RT - self.mean) / self.std

    def to_nats(self, standard_RT: np.ndarray) -> np.ndarray:
        return standard_RT * self.std + self.mean

    def extended(self, steps: int) -> LabelScale:
        """The scale of so many steps: those past the last are as the last."""
        place = np.minimum(np.arange(steps), len(self.mean) - 1)
        return LabelScale(self.mean[place], self.std[place])


def label_scale(training_RT: np.ndarray, per_position: bool) -> LabelScale:
    """Statistics of the training rollouts alone.

    Per position they remove what the step number does to every document's marginal; otherwise one
    mean and one standard deviation for all steps (the paper).
    """
    axis = 0 if per_position else None
    steps = training_RT.shape[1]
    mean = np.broadcast_to(training_RT.mean(axis=axis), steps)
    std = np.broadcast_to(training_RT.std(axis=axis), steps)
    return LabelScale(mean.copy(), np.maximum(std, 1e-12))
