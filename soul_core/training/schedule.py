"""The number of steps of a run, its learning rate over the steps, and what is scored between them. Torch-free."""

import math

from soul_core.spec import JobSpec, Training

#: A step of a latent ascent, in passes over its examples: forward, and back to the first of the default layers, without
#: gradients of weights.
PASSES_PER_LATENT_STEP = 7 / 12
#: Guard rows that are scored after every step of a run with `lr: auto`. Ours.
NUM_GUARD_ROWS = 8
#: Rows whose tokens make the covariances of `kfac`: at most this many retain rows and as many guard rows. Ours.
MAX_FACTOR_ROWS = 64
#: Forget rows that are scored for `training.stop_at`, and the steps between two scorings. Ours.
MAX_FORGET_ROWS, SCORE_EVERY = 32, 2


def compute_num_steps(training: Training, *, num_forget: int, num_retain: int) -> int:
    """Return the number of optimizer steps of a run.

    Epochs are passes over the forget set, or in a fine-tuning over the train set.

    Args:
        num_forget: Rows of the forget set; 0 in a fine-tuning.
        num_retain: Rows of the retain set, or of the train set.
    """
    if training.epochs is None:
        return training.steps
    num_rows, batch_size = (num_forget, training.forget_batch) if num_forget else (num_retain, training.retain_batch)
    return max(1, math.ceil(training.epochs * num_rows / batch_size))


def compute_lr_factor(spec: JobSpec, step: int, num_steps: int) -> float:
    """Return the factor of the learning rate at `step` (from 0) of `num_steps`."""
    training = spec.training
    if step < training.warmup_steps:
        return (step + 1) / (training.warmup_steps + 1)
    progress = (step - training.warmup_steps) / max(1, num_steps - training.warmup_steps)
    if training.schedule == "linear":
        return 1 - progress
    return (1 + math.cos(math.pi * progress)) / 2 if training.schedule == "cosine" else 1.0
