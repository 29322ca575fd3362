"""Downstream fine-tuning: an owner goes on training on text that has nothing to do with the forget set.

Source: Lucki et al. (arXiv:2409.18025), section 4: fine-tuning on unrelated data brings unlearned abilities back.
"""

from soul_core.attacks.context import Attacked, Scene
from soul_core.attacks.finetuning import learn
from soul_core.attacks.snapshot import restored
from soul_core.spec.attacks import Downstream


def downstream(scene: Scene, spec: Downstream) -> Attacked:
    """Fine-tune on unrelated text and measure the forget rows."""
    learned = scene.need(spec.set, "to fine-tune on")
    with restored(scene.loaded.model):
        learn(scene, learned.examples, steps=spec.steps, batch=spec.batch, lr=spec.lr)
        return scene.under_forget(f"{spec.steps} steps on {spec.steps * spec.batch} draws from the {spec.set} set.")
