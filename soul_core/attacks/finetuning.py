"""Fine-tuning inside an attack: first order, on the same trainer, undone by whoever opened `restored`."""

from collections.abc import Sequence

import torch

from soul_core.attacks.context import AttackContext
from soul_core.data.encoding import Example
from soul_core.spec import JobSpec, Training
from soul_core.spec.optimizers import AdamW
from soul_core.training.trainer import train

#: A deep relearning keeps a checkpoint this often, so that a crash does not begin it again.
_CHECKPOINT_STEPS = 200


def finetune_model(
    context: AttackContext, examples: Sequence[Example], *, num_steps: int, batch_size: int, lr: float
) -> None:
    """Train the scene's model on `examples` in place: AdamW, constant rate, NLL of the answers, all weights."""
    for parameter in context.loaded.model.parameters():
        if type(parameter.data) is torch.Tensor and parameter.is_floating_point():
            parameter.requires_grad_(True)
    ours = context.spec.training
    spec = JobSpec(
        kind="finetune",
        optimizer=AdamW(lr=lr),
        training=Training(
            steps=num_steps,
            retain_batch=batch_size,
            micro_batch_tokens=ours.micro_batch_tokens,
            max_tokens=ours.max_tokens,
            checkpoint_every=_CHECKPOINT_STEPS,
        ),
        device=context.spec.device,
        dtype=context.spec.dtype,
        seed=context.spec.seed,
    )
    train(
        context.loaded,
        spec,
        forget=(),
        retain=examples,
        state_dir=context.folder,
        listener=context.listener,
        phase="attack",
    )
