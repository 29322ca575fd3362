"""Downstream fine-tuning: an owner goes on training on text that has nothing to do with the forget set.

Source: Lucki et al. (arXiv:2409.18025), section 4: fine-tuning on unrelated data brings unlearned abilities back.
"""

from soul_core.attacks.context import AttackContext, AttackOutcome
from soul_core.attacks.finetuning import finetune_model
from soul_core.attacks.snapshot import preserve_model_state
from soul_core.spec.attacks import Downstream


def run_downstream(context: AttackContext, spec: Downstream) -> AttackOutcome:
    """Fine-tune on unrelated text and measure the forget rows."""
    learned = context.require_set(spec.set, "to fine-tune on")
    with preserve_model_state(context.loaded.model):
        finetune_model(context, learned.examples, num_steps=spec.steps, batch_size=spec.batch, lr=spec.lr)
        return context.measure_forget_rows(
            f"{spec.steps} steps on {spec.steps * spec.batch} draws from the {spec.set} set."
        )
