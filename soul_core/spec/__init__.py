"""JobSpec: everything a run depends on except the model and the data. Torch-free.

One definition from HTTP to trainer: the API validates request bodies with these classes, and the engine executes them.
`names`, `terms`, `optimizers`, `wrappers`, `strategy`, `training`, `evaluation`, `attacks` and `export` hold its parts;
`validation` holds the checks that need more than one field.
"""

import hashlib
import json
from collections.abc import Collection
from datetime import date
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from soul_core.spec.after import SHIPPED_REFUSALS, AfterTerm, NoAfter
from soul_core.spec.attacks import DEFAULT_ATTACKS, Attack
from soul_core.spec.evaluation import (
    AFTER_CRITERIA,
    DEFAULT_CRITERIA,
    PRIOR_FORGET_CRITERIA,
    RETRAINED_CRITERIA,
    Criterion,
    Evaluation,
    ProbeKind,
)
from soul_core.spec.export import Export
from soul_core.spec.generated_retain import GenerateRetain
from soul_core.spec.names import (
    ALL,
    ALL_PRIOR_FORGET_SETS,
    BASE,
    DROPPED_SUFFIX,
    EVALUATED,
    FINETUNED,
    FORGET,
    GENERAL,
    GENERAL_OWN,
    HOLDOUT,
    JUDGED_MODEL,
    PRIOR_FORGET_PREFIX,
    RETAIN,
    RETAIN_HELD_OUT,
    RETRAINED,
    TRAIN,
    UNLEARNED,
    JobKind,
    is_forget_set,
)
from soul_core.spec.optimizers import Kfac, Optimizer, Sophia
from soul_core.spec.strategy import Ensemble, Influence, Single, Strategy
from soul_core.spec.terms import ForgetTerm, Kl, Nll, Npo, RetainTerm, SpecModel
from soul_core.spec.training import Data, Training
from soul_core.spec.wrappers import ROBUST_DEFAULTS, LatentPerturbation, Lora, ParameterSelection, Saliency, Sharpness

__all__ = [
    "ALL",
    "ALL_PRIOR_FORGET_SETS",
    "BASE",
    "DEFAULT_ATTACKS",
    "DEFAULT_CRITERIA",
    "DROPPED_SUFFIX",
    "EVALUATED",
    "FINETUNED",
    "FORGET",
    "GENERAL",
    "GENERAL_OWN",
    "HOLDOUT",
    "JUDGED_MODEL",
    "PRIOR_FORGET_CRITERIA",
    "PRIOR_FORGET_PREFIX",
    "RETAIN",
    "RETAIN_HELD_OUT",
    "RETRAINED",
    "TRAIN",
    "UNLEARNED",
    "Criterion",
    "Data",
    "Evaluation",
    "JobKind",
    "JobSpec",
    "ProbeKind",
    "RetainConflicts",
    "Training",
    "is_forget_set",
]

RetainConflicts = Literal["drop", "refuse", "keep"]


def _format_robust_defaults() -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in ROBUST_DEFAULTS.items())


class JobSpec(SpecModel):
    """A recipe: forget term, retain term, optimizer, loop, evaluation, attacks, criteria."""

    kind: JobKind = Field(
        JobKind.UNLEARN,
        description="What the job does. unlearn: make the model forget the `forget` set, measured before and after. "
        "finetune: learn the `train` set. evaluate: measure a model, and others for comparison, and change none.",
    )
    forget: ForgetTerm = Field(Npo(), description="Loss term that makes the model forget the forget set.")
    retain: RetainTerm = Field(
        Nll(weight=10),
        description="Loss term that protects the model on the retain set. Without this field: nll, or kl if the run "
        "makes the retain set (`data.auto_retain`).",
    )
    after: AfterTerm = Field(
        NoAfter(),
        description="What the model says instead of the forgotten answers: a term that is added to the forget term on "
        "the same prompts. With it, the default criteria ask for it on the forget set, and against it on the retain "
        "set.",
    )
    optimizer: Optimizer = Field(
        Sophia(),
        description="How the weights are updated. Without this field: kfac if an unlearning job trains all weights, "
        "else sophia.",
    )
    parameters: ParameterSelection = Field(ParameterSelection(), description="Which weights are trained, by name.")
    saliency: Saliency | None = Field(None, description="Train only the weights that matter most for the forget set.")
    sharpness: Sharpness | None = Field(None, description="Make the result robust against small changes of weights.")
    latent: LatentPerturbation | None = Field(
        None, description="Forget at hidden states that were changed to bring the answers back."
    )
    robust: bool = Field(
        False,
        description="Sets what makes forgetting last under relearning, fine-tuning and rounding, by measurement: "
        f"{_format_robust_defaults()}; values of your own win. It costs time.",
    )
    lora: Lora | None = Field(None, description="Train low-rank adapters instead of the model's own weights.")
    data: Data = Field(Data(), description="How the data sets are read.")
    training: Training = Field(Training(), description="The training loop.")
    strategy: Strategy = Field(
        Single(), description="Train once, search for settings, combine several recipes, or take one static step."
    )
    prior_forget_sets: Literal["evaluate", "unlearn"] = Field(
        "evaluate",
        description="Use of the forget sets of the earlier jobs that produced the base model (prior_forget_1, ...). "
        "evaluate: measure whether the model still does not know them. unlearn: unlearn them again with the forget "
        "set, and measure them.",
    )
    retain_conflicts: RetainConflicts = Field(
        "drop",
        description="What happens to rows of the retain set (finetune: of the train set) that state, or ask for, facts "
        "of a forget set: the same question with any system turn, punctuation or form; the fact in other words or as "
        "plain text; a near-duplicate. drop: leave them out of training and measure them separately, as "
        "`retain_dropped`. refuse: end the run and list them. keep: learn them, with a warning. The default of kind "
        "finetune is keep; an evaluation changes no data set.",
    )
    evaluation: Evaluation = Field(Evaluation(), description="What is measured, and how.")
    attacks: tuple[Attack, ...] = Field(
        DEFAULT_ATTACKS[JobKind.UNLEARN],
        max_length=64,
        description="Attacks on the judged model, the base model and the retrained model, after everything else is "
        "measured. The default depends on the kind: the fast ones; none for finetune.",
    )
    criteria: tuple[Criterion, ...] = Field(
        DEFAULT_CRITERIA[JobKind.UNLEARN],
        max_length=500,
        description="Bounds that decide the verdict. The default depends on the kind; with a retrained model it also "
        "bounds what attacks recover.",
    )
    chat_template: str | None = Field(
        None,
        max_length=100_000,
        description="A chat template (Jinja) that replaces the model's own. The exported model has it too.",
    )
    chat_template_kwargs: dict[str, bool | int | float | str | None] = Field(
        {}, description="Variables of the chat template, such as enable_thinking; a name it does not read is an error."
    )
    template_date: date | None = Field(
        None,
        description="Date that a chat template writes as the current date. Default: the day on which the job was "
        "created (UTC); the report names it.",
    )
    export: Export = Field(Export(), description="Files that the run writes of the judged model.")
    model_train_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens the base model was trained on, if known: the report compares the cost of the run with it.",
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Type of computations. auto: bfloat16 on a GPU, float32 on a CPU. Master weights are always "
        "float32.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device to compute on. auto: the GPU if there is one."
    )
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of every random choice of the run.")

    @model_validator(mode="before")
    @classmethod
    def _set_defaults_of_kind(cls, data: Any) -> Any:
        named = data.get("kind", JobKind.UNLEARN) if isinstance(data, dict) else None
        if not isinstance(named, str) or named not in list(JobKind):
            return data
        kind = JobKind(named)
        defaults: dict[str, Any] = {"criteria": DEFAULT_CRITERIA[kind], "attacks": DEFAULT_ATTACKS[kind]}
        if kind == JobKind.UNLEARN and _get_kind(data.get("after")) != "none":
            defaults["criteria"] += AFTER_CRITERIA
        if kind == JobKind.FINETUNE:  # the user decides what the model learns; there is no other term to weigh against
            defaults |= {"retain_conflicts": "keep", "retain": Nll()}
        if data.get("robust") is True and kind == JobKind.UNLEARN:
            data = _merge(ROBUST_DEFAULTS, data)
        return {**defaults, **data}

    @field_validator("chat_template")
    @classmethod
    def _check_template(cls, source: str | None) -> str | None:
        if source is not None:
            from soul_core.chat.template import check_syntax  # imports jinja2, which a client does not have

            check_syntax(source)
        return source

    @field_validator("chat_template_kwargs")
    @classmethod
    def _refuse_reserved_names(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if kwargs:
            from soul_core.chat.template import RESERVED_VARIABLES  # imports jinja2, which a client does not have

            if reserved := sorted(RESERVED_VARIABLES & kwargs.keys()):
                raise ValueError(f"the run itself sets {', '.join(reserved)}; leave it out")
        return kwargs

    @model_validator(mode="after")
    def _check_members(self) -> "JobSpec":
        for number in range(len(self.strategy.members) if isinstance(self.strategy, Ensemble) else 0):
            try:
                self.make_member_spec(number)
            except ValidationError as error:
                problems = (
                    ".".join(map(str, ("strategy.members", number, *problem["loc"]))) + f": {problem['msg']}"
                    for problem in error.errors()
                )
                raise ValueError("; ".join(problems)) from error
        return self

    def get_recipes(self) -> dict[str, "JobSpec"]:
        """Return each spec that is trained, by its place: this one (""), or the members of an ensemble."""
        if not isinstance(self.strategy, Ensemble):
            return {"": self}
        return {
            f"strategy.members.{number}": self.make_member_spec(number) for number in range(len(self.strategy.members))
        }

    @property
    def training_phase(self) -> Literal["unlearn", "finetune"]:
        """The phase in which a run of this spec trains."""
        return "finetune" if self.kind == JobKind.FINETUNE else "unlearn"

    @property
    def learned_set(self) -> str:
        """The data set that the model learns or keeps."""
        return TRAIN if self.kind == JobKind.FINETUNE else RETAIN

    @property
    def dropped_set(self) -> str:
        """The set of those rows of the learned set that are left out of training and measured separately."""
        return f"{self.learned_set}{DROPPED_SUFFIX}"

    def list_made_sets(self, sets: Collection[str]) -> tuple[str, ...]:
        """Return the data sets that a run makes in addition to those that the job has.

        A retain set of fewer than `soul_core.data.held_out.MIN_SPLIT_ROWS` rows is not split after all.
        """
        if self.kind != JobKind.UNLEARN:
            return ()
        makes_retain_set = self.makes_retain_set(sets)
        is_made = {
            RETAIN: makes_retain_set,
            RETAIN_HELD_OUT: (RETAIN in sets or makes_retain_set) and self.data.retain_held_out > 0,
            GENERAL: "sample" in self.evaluation.general_text,
            GENERAL_OWN: "own" in self.evaluation.general_text,
        }
        return tuple(name for name, made in is_made.items() if made and name not in sets)

    @property
    def writes_adapter(self) -> bool:
        """Whether the run writes adapters alone, without a complete checkpoint."""
        return self.lora is not None and self.lora.output == "adapter"

    def makes_retain_set(self, sets: Collection[str]) -> bool:
        """Return whether a run on these data sets makes its retain set from the base model."""
        return (
            self.kind == JobKind.UNLEARN
            and FORGET in sets
            and RETAIN not in sets
            and isinstance(self.data.auto_retain, GenerateRetain)
            and any(recipe.retain.kind != "none" for recipe in self.get_recipes().values())
        )

    def complete(self, sets: Collection[str]) -> "JobSpec":
        """Return the spec with the defaults that depend on its other fields and on the job's data sets.

        The optimizer is `kfac` where none is named (decision 35). With `after`, the refusal rate is measured, and the
        job's own refusals count as such. A retain set that the model made holds its own answers: unless the spec names
        a retain term, it is `kl`, which is zero for the base model.
        """
        changes: dict[str, Any] = {}
        if not isinstance(self.after, NoAfter):
            own = [text for text in self.after.refusals if text not in SHIPPED_REFUSALS]
            changes["evaluation"] = self.evaluation.add_refusals(own)
        if self._leaves_optimizer_open():
            changes["optimizer"] = Kfac()
        names_term = "retain" in self.model_fields_set or isinstance(self.strategy, Influence)
        if not names_term and self.makes_retain_set(sets):
            changes["retain"] = Kl(weight=10)
        return self.model_copy(update=changes) if changes else self

    def _leaves_optimizer_open(self) -> bool:
        """Return whether the spec names no optimizer, and trains the matrices that `kfac` needs."""
        trains_all = self.lora is None and self.saliency is None and self.parameters == ParameterSelection()
        is_open = "optimizer" not in self.model_fields_set and not isinstance(self.strategy, Influence | Ensemble)
        return self.kind == JobKind.UNLEARN and is_open and trains_all

    def unlearns(self, set_name: str) -> bool:
        """Return whether a run unlearns a data set: the forget set, and prior ones if the spec asks for it."""
        is_repeated = self.prior_forget_sets == "unlearn" and is_forget_set(set_name)
        return self.kind == JobKind.UNLEARN and (set_name == FORGET or is_repeated)

    def expand_criteria(
        self, sets: Collection[str], *, retrained_attacks: Collection[str] = ()
    ) -> tuple[Criterion, ...]:
        """Return the criteria of a run on these data sets, with one on `prior_forget_*` repeated for each such set.

        Args:
            retrained_attacks: Labels of the attacks that ran on the retrained model too. The defaults of an unlearning
                job bound what these attacks recover.
        """
        prior_sets = [name for name in sets if name.startswith(PRIOR_FORGET_PREFIX)]
        has_defaults = self.kind == JobKind.UNLEARN and self.criteria == DEFAULT_CRITERIA[self.kind]
        of_retrained = [criterion for criterion in RETRAINED_CRITERIA if criterion.attack in retrained_attacks]
        return tuple(
            criterion.model_copy(update={"set": name})
            for criterion in (*self.criteria, *(of_retrained if has_defaults else ()))
            for name in (prior_sets if criterion.set == ALL_PRIOR_FORGET_SETS else [criterion.set])
        )

    def make_member_spec(self, number: int) -> "JobSpec":
        """Return the spec of one member of an ensemble. Raises pydantic's ValidationError if it is invalid."""
        assert isinstance(self.strategy, Ensemble)
        own = self.model_dump(exclude={"strategy"})
        return JobSpec.model_validate(_merge(own, self.strategy.members[number]))

    def compute_sha256(self) -> str:
        """Return the sha256 of the canonical JSON: two equal specs have one digest."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def _get_kind(choice: Any) -> Any:
    """Return the kind of a choice before it is validated: its name, an object, an instance or nothing."""
    if isinstance(choice, str):
        return choice
    kind = choice.get("kind") if isinstance(choice, dict) else getattr(choice, "kind", None)
    return kind or "none"


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` changed by `changes`. A choice of another kind replaces the complete choice."""
    result = dict(base)
    for key, value in changes.items():
        own = result.get(key)
        if isinstance(value, dict) and isinstance(own, dict) and value.get("kind", own.get("kind")) == own.get("kind"):
            result[key] = _merge(own, value)
        else:
            result[key] = value
    return result
