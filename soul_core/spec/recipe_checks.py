"""Checks of what is trained: the spec itself, or each member of an ensemble. `validation` lists and runs them."""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from soul_core.spec import FORGET, RETAIN, TRAIN, Data, JobKind, JobSpec, Training
from soul_core.spec.strategy import Influence
from soul_core.spec.terms import GradDiff, GradientAscent, Nll


class SpecProblem(NamedTuple):
    """One reason why a run cannot follow a spec.

    Attributes:
        place: Dotted path of the field, such as `optimizer.lr`; empty where the data sets or models are wrong.
        detail: The problem and its remedy.
    """

    place: str
    detail: str


@dataclass(frozen=True)
class JobContext:
    """What a check reads in addition to the spec: names of data sets and of further models, and the job's strategy."""

    sets: Collection[str]
    models: Collection[str]
    has_retrained_log: bool
    strategy: str


Check = Callable[[JobSpec, JobContext], Iterator[SpecProblem]]


def check_unlearning(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    """Check that an unlearning job has the data sets its terms read."""
    if spec.kind != JobKind.UNLEARN:
        return
    if FORGET not in context.sets:
        yield SpecProblem("", "there is no forget set; give the rows that the model must forget")
    if RETAIN in context.sets:
        return
    if spec.retain.kind != "none":
        yield SpecProblem(
            "retain.kind",
            f"'{spec.retain.kind}' needs a retain set; give one, set data.auto_retain to "
            '{"kind": "auto"} and the model makes one, or set retain to {"kind": "none"} and leave the model\'s other '
            "abilities unprotected",
        )
    curvature = None if isinstance(spec.strategy, Influence) else getattr(spec.optimizer, "curvature", None)
    if curvature is not None and curvature.data != "forget":
        yield SpecProblem(
            "optimizer.curvature.data", f"'{curvature.data}' needs a retain set; give one, or set it to 'forget'"
        )


def check_term_pair(spec: JobSpec, _: JobContext) -> Iterator[SpecProblem]:
    """Check that the retain term goes with the forget term."""
    forget, retain = spec.forget.kind, spec.retain.kind
    if spec.kind != JobKind.UNLEARN:
        return
    if retain == "rmu_retain" and forget != "rmu":
        yield SpecProblem(
            "retain.kind",
            f"'rmu_retain' holds the hidden states that forget.kind 'rmu' steers, and '{forget}' steers none; "
            "use 'nll' or 'kl'",
        )
    if retain == "none" and forget == "pdu":
        yield SpecProblem(
            "retain.kind", "'pdu' needs a retain term, because it bounds the retain loss; use 'nll' or 'kl'"
        )


def check_finetuning(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    """Check that a fine-tuning job has a train set and no setting of unlearning."""
    if spec.kind != JobKind.FINETUNE:
        return
    if TRAIN not in context.sets:
        yield SpecProblem("", "there is no train set; give the rows that the model must learn")
    plain = JobSpec(kind=JobKind.FINETUNE)
    for name in ("forget", "retain", "after"):
        if getattr(spec, name) != getattr(plain, name):
            yield SpecProblem(
                name, f"a job of kind 'finetune' learns its train set and has no {name} term; leave it out"
            )
    if spec.robust:
        yield SpecProblem(
            "robust", "it is about forgetting, and a job of kind 'finetune' forgets nothing; leave it out"
        )
    yield from _check_made_sets(spec)
    if spec.prior_forget_sets == "unlearn":
        yield SpecProblem("prior_forget_sets", "fine-tuning cannot unlearn; leave it out, and the sets are measured")
    if spec.data.paraphrases:
        yield SpecProblem("data.paraphrases", "they are of forget rows, and fine-tuning has none; leave it out")
    for name in ("saliency", "sharpness", "latent"):
        if getattr(spec, name) is not None:
            yield SpecProblem(name, "it reads the forget set, and fine-tuning has none; leave it out")
    curvature = getattr(spec.optimizer, "curvature", None)
    if curvature is not None and curvature.data in {"forget", "both"}:
        yield SpecProblem("optimizer.curvature.data", "fine-tuning takes the curvature of its train set; leave it out")


def check_evaluation(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    """Check that an evaluation has data and no setting that changes a model."""
    if spec.kind != JobKind.EVALUATE:
        return
    if not context.sets:
        yield SpecProblem("", "there is no data set; give the rows that the model is asked about")
    plain = JobSpec(kind=JobKind.EVALUATE)
    unused = (
        "forget",
        "retain",
        "after",
        "retain_conflicts",
        "optimizer",
        "strategy",
        "parameters",
        "saliency",
        "sharpness",
        "latent",
    )
    for name in (*unused, "lora"):
        if getattr(spec, name) != getattr(plain, name):
            yield SpecProblem(name, "a job of kind 'evaluate' changes no model; leave it out")
    if spec.robust:
        yield SpecProblem("robust", "a job of kind 'evaluate' changes no model; leave it out")
    yield from _check_made_sets(spec)
    if spec.export != plain.export:
        yield SpecProblem("export", "a job of kind 'evaluate' writes no model; leave it out")


def _check_made_sets(spec: JobSpec) -> Iterator[SpecProblem]:
    """Check that a job that does not unlearn has no setting of the sets that an unlearning run makes."""
    if spec.data.retain_held_out != Data().retain_held_out:
        yield SpecProblem("data.retain_held_out", "only a job of kind 'unlearn' holds retain rows out; leave it out")


#: Settings of the training loop that a single static step does not use.
_LOOP_SETTINGS = (
    "steps", "epochs", "forget_batch", "retain_batch", "grad_clip", "schedule", "warmup_steps", "checkpoint_every",
    "stop_at",
)  # fmt: skip


def check_influence(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    """Check that a job with the single static step of influence unlearning has no setting of a training."""
    if not isinstance(spec.strategy, Influence) or spec.kind == JobKind.EVALUATE:
        return
    if spec.kind == JobKind.FINETUNE:
        yield SpecProblem("strategy.kind", "'influence' removes what was learned; use 'single' to fine-tune")
        return
    if RETAIN not in context.sets:
        yield SpecProblem(
            "strategy.kind", "'influence' needs the curvature of a retain set; give one, or use another strategy"
        )
    if spec.optimizer != JobSpec.model_fields["optimizer"].default:
        yield SpecProblem("optimizer", "'influence' takes one static step and has no optimizer; leave it out")
    if spec.forget not in (JobSpec.model_fields["forget"].default, GradientAscent(), GradDiff()):
        yield SpecProblem(
            "forget.kind", "'influence' ascends the NLL of the forget set and reads no forget term; leave it out"
        )
    if spec.retain not in (JobSpec.model_fields["retain"].default, Nll()):
        yield SpecProblem(
            "retain.kind", "'influence' bounds the NLL of the retain set and reads no retain term; leave it out"
        )
    plain = Training()
    for name in _LOOP_SETTINGS:
        if getattr(spec.training, name) != getattr(plain, name):
            yield SpecProblem(f"training.{name}", "'influence' takes one static step and does not use it; leave it out")
    does_not_change = "'influence' takes one static step, which this does not change; leave it out"
    wrong = {
        "data.paraphrases": "'influence' takes the gradient of the forget rows themselves; leave it out"
        if spec.data.paraphrases
        else "",
        "after.kind": "'influence' takes one static step and learns no text; leave it out"
        if spec.after.kind != "none"
        else "",
        **{name: does_not_change for name in ("saliency", "sharpness", "latent") if getattr(spec, name) is not None},
    }
    yield from (SpecProblem(place, reason) for place, reason in wrong.items() if reason)


def check_saliency(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    """Check that the saliency scores have their data and select among trained weights."""
    if spec.saliency is None or spec.kind == JobKind.EVALUATE:
        return
    if spec.saliency.score != "gradient" and RETAIN not in context.sets:
        yield SpecProblem("saliency.score", f"'{spec.saliency.score}' needs a retain set; give one, or use 'gradient'")
    if spec.lora is not None:
        yield SpecProblem("saliency", "it selects among the model's own weights, and LoRA trains none; leave one out")


def check_adapter_output(spec: JobSpec, context: JobContext) -> Iterator[SpecProblem]:
    """Check that adapters are not written alone where complete models are merged."""
    if spec.writes_adapter and context.strategy == "ensemble" and spec.kind != JobKind.EVALUATE:
        yield SpecProblem("lora.output", "'ensemble' chooses or merges complete models; use 'merged'")
