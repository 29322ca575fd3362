"""How long a run is, and the learning rate over it. Torch-free."""

import math

from soul_core.spec import JobSpec, Training


def compute_num_steps(training: Training, *, num_forget: int, num_retain: int) -> int:
    """Return the optimizer steps of a run over `num_forget` and `num_retain` rows (`train` rows of a fine-tuning).

    Epochs are counted over what is learned or unlearned: the forget set, or without one the train set.
    """
    if training.epochs is None:
        return training.steps
    rows, batch = (num_forget, training.forget_batch) if num_forget else (num_retain, training.retain_batch)
    return max(1, math.ceil(training.epochs * rows / batch))


def compute_lr_factor(spec: JobSpec, step: int, num_steps: int) -> float:
    """Return the factor of the learning rate at `step` (from 0) of `total`."""
    training = spec.training
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    passed = (step - training.warmup_steps) / max(1, num_steps - training.warmup_steps)
    if training.schedule == "linear":
        return 1 - passed
    return (1 + math.cos(math.pi * passed)) / 2 if training.schedule == "cosine" else 1.0
