"""Which optimizers and wrappers of a spec go together, and with which data. Torch-free."""

from collections.abc import Collection, Iterator

from soul_core.spec import RETAIN, JobSpec, Training
from soul_core.spec.optimizers import Influence
from soul_core.spec.terms import GradDiff, GradientAscent, Nll

SpecProblem = tuple[str, str]

#: Settings of the loop that a single static step has no use for.
_OF_THE_LOOP = (
    "steps", "epochs", "forget_batch", "retain_batch", "grad_clip", "schedule", "warmup_steps", "checkpoint_every",
)  # fmt: skip
_WRAPPERS = ("parameters", "saliency", "sharpness", "lora")


def find_method_problems(spec: JobSpec, sets: Collection[str], *, strategy: str = "single") -> Iterator[SpecProblem]:
    """Yield (dotted place in the spec, what to do) for everything that cannot be obeyed. `strategy`: the job's, for a
    recipe of an ensemble has none of its own.
    """
    if spec.kind == "evaluate":
        for name in _WRAPPERS:
            if getattr(spec, name) != JobSpec.model_fields[name].default:
                yield name, "a job of kind 'evaluate' changes no model; leave it out"
        return
    if spec.kind == "finetune":
        for name in ("saliency", "sharpness"):
            if getattr(spec, name) is not None:
                yield name, "looks at the forget set, and fine-tuning has none; leave it out"
    if isinstance(spec.optimizer, Influence):
        yield from _influence(spec, sets, strategy)
    yield from _saliency(spec, sets)
    if spec.lora is not None and spec.lora.output == "adapter" and strategy == "ensemble":
        yield "lora.output", "'ensemble' chooses or merges whole models; take 'merged'"


def _influence(spec: JobSpec, sets: Collection[str], strategy: str) -> Iterator[SpecProblem]:
    if spec.kind == "finetune":
        yield "optimizer.kind", "'influence' undoes what was learned; fine-tune with 'sophia' or 'adamw'"
        return
    if strategy == "search":
        yield "strategy.kind", "'influence' has no learning rate to search; take 'single'"
    if RETAIN not in sets:
        yield "optimizer.kind", "'influence' takes the curvature of the retain set; give one, or another optimizer"
    if spec.forget not in (JobSpec.model_fields["forget"].default, GradientAscent(), GradDiff()):
        yield "forget.kind", "'influence' ascends the forget answers' NLL and reads no forget term; leave it out"
    if spec.retain != Nll():
        yield "retain.kind", "'influence' holds the retain answers' NLL and reads no retain term; leave it out"
    plain = Training()
    for name in _OF_THE_LOOP:
        if getattr(spec.training, name) != getattr(plain, name):
            yield f"training.{name}", "means nothing to 'influence', which takes one static step; leave it out"
    for name in ("saliency", "sharpness"):
        if getattr(spec, name) is not None:
            yield name, "'influence' takes one static step, which this does not change; leave it out"


def _saliency(spec: JobSpec, sets: Collection[str]) -> Iterator[SpecProblem]:
    if spec.saliency is None:
        return
    if spec.saliency.score != "gradient" and RETAIN not in sets:
        yield "saliency.score", f"'{spec.saliency.score}' needs a retain set; give one, or take 'gradient'"
    if spec.lora is not None:
        yield "saliency", "chooses among the model's own weights, and LoRA moves none of them; leave one out"
