"""Learning rates by step."""

from __future__ import annotations

from groupmates.settings.config import PretrainTraining


def warm_up_stable_decay(training: PretrainTraining, step: int, steps: int) -> float:
    """The learning rate of a step, from 0, of so many.

    Linear to the full rate, which the last warm-up step has; then constant; then linear to
    `decay_to`, which the last step has. Where both meet, the warm-up comes first.
    """
    peak, warmup = training.learning_rate, training.warmup_steps
    if step < warmup:
        return peak * (step + 1) / warmup
    decay = min(round(training.decay_share * steps), steps - warmup)
    into = step + 1 - (steps - decay)
    return peak + (training.decay_to - peak) * into / decay if into > 0 else peak
