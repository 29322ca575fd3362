"""Fine-tuning as an attack, and inside other attacks: first order, by the engine's own trainer.

The caller restores the weights (`preserve_model_state`).
"""

from collections.abc import Sequence

import torch

from soul_core.attacks.context import AttackContext
from soul_core.attacks.snapshot import preserve_model_state
from soul_core.data.encoding import Example
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.spec import JobSpec, Training
from soul_core.spec.attacks import Downstream
from soul_core.spec.optimizers import AdamW
from soul_core.training.trainer import train

#: Steps between two checkpoints, so that a crash does not restart a long fine-tuning.
_CHECKPOINT_STEPS = 200


def run_downstream(context: AttackContext, spec: Downstream) -> AttackOutcome:
    """Fine-tune on text unrelated to the forget set, as a later owner of the model may, and measure the forget rows.

    Source: Lucki et al. (arXiv:2409.18025), section 4: fine-tuning on unrelated data brings unlearned abilities back.
    """
    unrelated = context.require_set(spec.set, "to fine-tune on")
    with preserve_model_state(context.loaded.model):
        finetune_model(context, unrelated.examples, num_steps=spec.steps, batch_size=spec.batch, lr=spec.lr)
        return context.measure_forget_rows(
            f"{spec.steps} steps on {spec.steps * spec.batch} draws from the {spec.set} set."
        )


def finetune_model(
    context: AttackContext, examples: Sequence[Example], *, num_steps: int, batch_size: int, lr: float
) -> None:
    """Train all weights of the context's model on `examples` in place: AdamW, constant rate, NLL of the answers."""
    for parameter in context.loaded.model.parameters():
        if type(parameter.data) is torch.Tensor and parameter.is_floating_point():
            parameter.requires_grad_(True)
    training = context.spec.training
    spec = JobSpec(
        kind="finetune",
        optimizer=AdamW(lr=lr),
        training=Training(
            steps=num_steps,
            retain_batch=batch_size,
            micro_batch_tokens=training.micro_batch_tokens,
            max_tokens=training.max_tokens,
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
