"""How long a run is, and the learning rate over it. Torch-free."""

import math

from soul_core.spec import JobSpec, Training


def num_steps(training: Training, *, forget: int, retain: int) -> int:
    """Return the optimizer steps of a run over so many forget and retain rows (`train` rows of a fine-tuning).

    Epochs are counted over what is learned or unlearned: the forget set, or without one the train set.
    """
    if training.epochs is None:
        return training.steps
    rows, batch = (forget, training.forget_batch) if forget else (retain, training.retain_batch)
    return max(1, math.ceil(training.epochs * rows / batch))


def schedule_factor(spec: JobSpec, step: int, total: int) -> float:
    """Return the factor of the learning rate at `step` (from 0) of `total`."""
    training = spec.training
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    passed = (step - training.warmup_steps) / max(1, total - training.warmup_steps)
    if training.schedule == "linear":
        return 1 - passed
    return (1 + math.cos(math.pi * passed)) / 2 if training.schedule == "cosine" else 1.0
