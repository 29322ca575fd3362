"""JobSpec: everything a run depends on but the model and the data. Torch-free.

One definition from HTTP to trainer: the API validates request bodies with these classes, the engine obeys them.
"""

import hashlib
from collections.abc import Collection
from datetime import date
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from soul_core.chat.template import RESERVED_VARIABLES, check_syntax
from soul_core.spec.attacks import CHEAP_ATTACKS, Attack
from soul_core.spec.export import Export
from soul_core.spec.optimizers import Optimizer, Sophia
from soul_core.spec.strategy import Ensemble, Single, Strategy
from soul_core.spec.terms import SET_NAME_PATTERN, ForgetTerm, Nll, Npo, RetainTerm, SpecModel
from soul_core.spec.wrappers import Lora, ParameterSelection, Saliency, Sharpness

#: Data sets with a meaning; any other name is measured too. `ALL` is no set: metrics of the model as a whole.
FORGET, RETAIN, GENERAL, TRAIN, HOLDOUT, ALL = "forget", "retain", "general", "train", "holdout", "all"

#: prior_forget_1, prior_forget_2, ...: forget sets of the jobs that made the model this one begins with.
PRIOR_FORGET_PREFIX = "prior_forget_"

#: retain_dropped, train_dropped: what a run makes of rows that it leaves out of the learned set.
DROPPED_SUFFIX = "_dropped"

#: In criteria: each of them, however many there are.
ALL_PRIOR_FORGET_SETS = "prior_forget_*"

#: Models with a meaning in a report; an evaluation may name others.
BASE, UNLEARNED, FINETUNED, EVALUATED, RETRAINED = "base", "unlearned", "finetuned", "evaluated", "retrained"


class JobKind(StrEnum):
    """What a job does."""

    UNLEARN = "unlearn"
    FINETUNE = "finetune"
    EVALUATE = "evaluate"


RetainConflicts = Literal["drop", "refuse", "keep"]
ProbeKind = Literal["fill_in", "question", "adversarial"]
#: What a job of each kind judges.
JUDGED_MODEL: dict[JobKind, str] = {
    JobKind.UNLEARN: UNLEARNED,
    JobKind.FINETUNE: FINETUNED,
    JobKind.EVALUATE: EVALUATED,
}


def is_forget_set(set_name: str) -> bool:
    """Say whether a data set holds what is to be forgotten, or was by an earlier job."""
    return set_name == FORGET or set_name.startswith(PRIOR_FORGET_PREFIX)


class Data(SpecModel):
    """How the data sets of a run are read. What the service stored at upload is clean already and is read as it is."""

    clean: bool = Field(
        True,
        description="Take white space and end-of-turn marks of a model off the ends of prompts and answers, and write "
        "line ends as LF. Each is reported with its row numbers.",
    )
    normalize: bool = Field(
        False,
        description="Rewrite all texts in Unicode normal form C with plain spaces and without zero-width marks, before "
        "they are learned and scored.",
    )


class Training(SpecModel):
    """The loop."""

    steps: int = Field(20, ge=1, le=1_000_000, description="Optimizer steps.")
    epochs: float | None = Field(
        None, gt=0, le=10_000, description="Passes over the forget set (finetune: the train set), instead of steps."
    )
    forget_batch: int = Field(4, ge=1, le=4096, description="Forget examples a step.")
    retain_batch: int = Field(4, ge=1, le=4096, description="Retain examples a step.")
    micro_batch_tokens: int = Field(
        2048,
        ge=16,
        description="Most tokens in one forward pass; larger batches are accumulated. Halves by itself "
        "when memory runs out.",
    )
    max_tokens: int = Field(
        2048, ge=8, description="Longest example, prompt and answer together; the model's context if that is shorter."
    )
    grad_clip: float = Field(1.0, gt=0, description="Bound of the gradient's L2 norm.")
    schedule: Literal["constant", "linear", "cosine"] = Field("constant", description="Learning rate over the run.")
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    checkpoint_every: int = Field(10, ge=1, description="Steps between two checkpoints of the run.")


class Evaluation(SpecModel):
    """What is measured before and after, and how."""

    metrics: tuple[str, ...] = Field(
        (
            "probability",
            "rouge_l",
            "keyword_recall",
            "exact_memorization",
            "extraction_strength",
            "perplexity",
            "truth_ratio",
            "mia_loss",
            "mia_zlib",
            "mia_min_k",
            "mia_min_k_plus",
            "tpr_loss",
            "tpr_zlib",
            "tpr_min_k",
            "tpr_min_k_plus",
            "forget_quality",
            "privleak",
            "model_utility",
        ),
        min_length=1,
        description="Names from GET /v1/methods.",
    )
    max_new_tokens: int = Field(200, ge=1, le=4096, description="Longest generated answer.")
    max_examples: int = Field(400, ge=1, description="Rows of each set that are measured; chosen by the seed.")
    num_answer_samples: int = Field(20, ge=0, le=1000, description="Questions shown in the report before and after.")
    probes: tuple[ProbeKind, ...] = Field(
        (),
        description="Further sets made of the forget rows, as RWKU asks (arXiv:2406.10890): sentences with the answer "
        "left blank, reworded questions, questions that press for the answer. Sets forget_fill_in, ...",
    )
    attack_examples: int = Field(
        32, ge=1, description="Rows of the forget set that are measured under each attack; chosen by the seed."
    )
    attack_new_tokens: int = Field(48, ge=1, le=4096, description="Longest generated answer under an attack.")
    bootstrap: int = Field(1000, ge=0, le=100_000, description="Resamples behind a confidence interval.")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the confidence intervals.")


class Criterion(SpecModel):
    """One bound the judged model must keep. Holds when the whole confidence interval is on the right side."""

    set: str = Field(
        pattern=SET_NAME_PATTERN + r"|^prior_forget_\*$",
        description="Data set the metric is taken on: forget, retain, general, ...; `all`: the whole model; "
        "`prior_forget_*`: each of the sets that earlier jobs forgot, if there are any.",
    )
    attack: str | None = Field(None, description="Label of an attack: the metric is taken under it.")
    metric: str = Field(description="Name from GET /v1/methods.")
    at_most: float | None = Field(None, description="Upper bound.")
    at_least: float | None = Field(None, description="Lower bound.")
    relative_to_base: bool = Field(False, description="Bounds are factors of the base model's value.")

    @model_validator(mode="after")
    def _one_bound(self) -> "Criterion":
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give either at_most or at_least")
        return self


_FORGOTTEN = (
    Criterion(set=FORGET, metric="probability", at_most=0.25, relative_to_base=True),
    Criterion(set=FORGET, metric="keyword_recall", at_most=0.25, relative_to_base=True),
)
#: Absolute, for the base of such a job has forgotten them already: a factor of next to nothing is no bound.
PRIOR_FORGET_CRITERIA = (
    Criterion(set=ALL_PRIOR_FORGET_SETS, metric="probability", at_most=0.25),
    Criterion(set=ALL_PRIOR_FORGET_SETS, metric="keyword_recall", at_most=0.25),
)
_KEPT = (
    Criterion(set=RETAIN, metric="probability", at_least=0.8, relative_to_base=True),
    Criterion(set=RETAIN, metric="keyword_recall", at_least=0.8, relative_to_base=True),
)
#: Why these: docs/evaluation.md.
DEFAULT_CRITERIA: dict[JobKind, tuple[Criterion, ...]] = {
    JobKind.UNLEARN: _FORGOTTEN + PRIOR_FORGET_CRITERIA + _KEPT,
    JobKind.FINETUNE: (
        Criterion(set=TRAIN, metric="probability", at_least=1.0, relative_to_base=True),
        *PRIOR_FORGET_CRITERIA,
    ),
    JobKind.EVALUATE: (),
}
DEFAULT_ATTACKS: dict[JobKind, tuple[Attack, ...]] = {
    JobKind.UNLEARN: CHEAP_ATTACKS,
    JobKind.FINETUNE: (),
    JobKind.EVALUATE: CHEAP_ATTACKS,
}


class JobSpec(SpecModel):
    """A recipe: forget term, retain term, optimizer, loop, evaluation, attacks, criteria."""

    kind: JobKind = Field(
        JobKind.UNLEARN,
        description="What the job does. unlearn: the whole road. finetune: learn the `train` set. evaluate: audit a "
        "model, and others beside it, without changing any.",
    )
    forget: ForgetTerm = Npo()
    retain: RetainTerm = Nll()
    optimizer: Optimizer = Sophia()
    parameters: ParameterSelection = ParameterSelection()
    saliency: Saliency | None = None
    sharpness: Sharpness | None = None
    lora: Lora | None = None
    data: Data = Data()
    training: Training = Training()
    strategy: Strategy = Single()
    prior_forget_sets: Literal["evaluate", "unlearn"] = Field(
        "evaluate",
        description="What prior forget sets (named prior_forget_1, ...) are for when the base is the output of one. "
        "evaluate: is what was forgotten still forgotten? unlearn: also unlearn them again with the forget set.",
    )
    retain_conflicts: RetainConflicts = Field(
        "drop",
        description="What to do with rows of the retain set (finetune: of the train set) that state, or ask for, facts "
        "of the forget set or of an earlier one: the same question under any system turn, punctuation or form; the "
        "fact in other words or as plain text; a near-duplicate. drop: leave them out of training and measure them "
        "apart, as `retain_dropped`. refuse: end the run and name them. keep: learn them, with a warning. The default "
        "of kind finetune is keep; an evaluation changes no set.",
    )
    evaluation: Evaluation = Evaluation()
    attacks: tuple[Attack, ...] = Field(
        DEFAULT_ATTACKS[JobKind.UNLEARN],
        description="Tried on the judged model, the base and the reference after all else is measured. The default "
        "depends on the kind: cheap ones; none for finetune.",
    )
    criteria: tuple[Criterion, ...] = Field(
        DEFAULT_CRITERIA[JobKind.UNLEARN], description="What decides the verdict. The default depends on the kind."
    )
    chat_template: str | None = Field(
        None,
        max_length=100_000,
        description="A chat template (Jinja) in place of the model's own. The exported model carries it.",
    )
    chat_template_kwargs: dict[str, bool | int | float | str | None] = Field(
        {}, description="Variables of the chat template, such as enable_thinking; names it does not read are refused."
    )
    template_date: date | None = Field(
        None,
        description="The day on which a chat template renders that writes the current date. Default: the day the job "
        "was created (UTC); the report names it.",
    )
    export: Export = Export()
    model_train_tokens: int | None = Field(
        None, ge=1, description="Tokens the base model was trained on, if known: the report then gives the run's share."
    )
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="Compute type. auto: bfloat16 on a GPU, float32 on a CPU; master weights are float32 always.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: the GPU where there is one.")
    seed: int = Field(0, ge=0, lt=2**32, description="All randomness of the run.")

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_kind(cls, data: Any) -> Any:
        kind = data.get("kind", "unlearn") if isinstance(data, dict) else None
        if kind not in DEFAULT_CRITERIA:
            return data
        defaults: dict[str, Any] = {"criteria": DEFAULT_CRITERIA[kind], "attacks": DEFAULT_ATTACKS[kind]}
        if kind == "finetune":  # what is to be learned is the user's word
            defaults["retain_conflicts"] = "keep"
        return {**defaults, **data}

    @field_validator("chat_template")
    @classmethod
    def _template_compiles(cls, source: str | None) -> str | None:
        if source is not None:
            check_syntax(source)
        return source

    @field_validator("chat_template_kwargs")
    @classmethod
    def _no_reserved_names(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(RESERVED_VARIABLES & kwargs.keys()):
            raise ValueError(f"{', '.join(taken)}: the run sets it")
        return kwargs

    @model_validator(mode="after")
    def _members_are_specs(self) -> "JobSpec":
        for number in range(len(self.strategy.members) if isinstance(self.strategy, Ensemble) else 0):
            try:
                self.make_member_spec(number)
            except ValidationError as error:
                found = (
                    ".".join(map(str, ("members", number, *one["loc"]))) + f": {one['msg']}" for one in error.errors()
                )
                raise ValueError(f"strategy.{'; strategy.'.join(found)}") from error
        return self

    def get_recipes(self) -> dict[str, "JobSpec"]:
        """Return what is trained by its place in the spec: the spec itself ("") or each recipe of an ensemble."""
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
        """The data set that is learned, or kept."""
        return TRAIN if self.kind == "finetune" else RETAIN

    @property
    def dropped_set(self) -> str:
        """The rows of the learned set that are left out of training, measured apart."""
        return f"{self.learned_set}{DROPPED_SUFFIX}"

    def unlearns(self, set_name: str) -> bool:
        """Say whether a data set of this name is unlearned: the forget set, and earlier jobs' where they join."""
        joins = self.prior_forget_sets == "unlearn" and is_forget_set(set_name)
        return self.kind == "unlearn" and (set_name == FORGET or joins)

    def expand_criteria(self, sets: Collection[str]) -> tuple[Criterion, ...]:
        """Return the criteria of a run on these data sets: one on `prior_forget_*` becomes one on each."""
        earlier = [name for name in sets if name.startswith(PRIOR_FORGET_PREFIX)]
        return tuple(
            each.model_copy(update={"set": name})
            for each in self.criteria
            for name in (earlier if each.set == ALL_PRIOR_FORGET_SETS else [each.set])
        )

    def make_member_spec(self, number: int) -> "JobSpec":
        """Return the spec of one recipe of an ensemble. Raises pydantic's ValidationError where it is none."""
        assert isinstance(self.strategy, Ensemble)
        own = self.model_dump(exclude={"strategy"})
        return JobSpec.model_validate(_laid_over(own, self.strategy.members[number]))

    def compute_sha256(self) -> str:
        """Return the sha256 of the canonical JSON: two equal specs have one digest."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


def _laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return `base` with `changes` over it; a choice of another kind replaces the whole choice."""
    result = dict(base)
    for key, value in changes.items():
        own = result.get(key)
        if isinstance(value, dict) and isinstance(own, dict) and value.get("kind", own.get("kind")) == own.get("kind"):
            result[key] = _laid_over(own, value)
        else:
            result[key] = value
    return result
