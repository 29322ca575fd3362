"""The learning rate over a run."""

import math

from soul_core.spec import JobSpec


def schedule_factor(spec: JobSpec, step: int) -> float:
    """Return the factor of the learning rate at `step` (from 0)."""
    training = spec.training
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    passed = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    if training.schedule == "linear":
        return 1 - passed
    return (1 + math.cos(math.pi * passed)) / 2 if training.schedule == "cosine" else 1.0
