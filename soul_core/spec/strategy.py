"""The strategies of a spec: how the base model becomes the unlearned model. Torch-free.

Each `kind` here has one function in the engine's table (`soul_core.pipeline.strategies`); a test keeps both, and
`docs/reference/methods.md`, equal. The functions below say what a search measures and what it varies.
"""

from collections.abc import Collection
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from soul_core.catalogue import METRIC_CATALOG
from soul_core.near_spelling import find_nearest, shorten
from soul_core.spec.evaluation import Criterion
from soul_core.spec.names import GENERAL_OWN, RETAIN_HELD_OUT
from soul_core.spec.optimizers import MAX_LR, MAX_RISE, Kfac, Sophia
from soul_core.spec.terms import MAX_PROBLEMS, MAX_WEIGHT, NoRetain, SpecModel

if TYPE_CHECKING:
    from soul_core.spec import JobSpec

Rate = Annotated[float, Field(gt=0, le=MAX_LR)]
Factor = Annotated[float, Field(gt=0, le=MAX_WEIGHT)]

#: What a member of an ensemble may set. All other fields (what is measured, judged and written) are the job's.
MEMBER_FIELDS = (
    "forget", "retain", "optimizer", "parameters", "saliency", "sharpness", "latent", "lora", "training", "seed",
)  # fmt: skip


class Single(SpecModel):
    """Train once, with the settings of the spec."""

    kind: Literal["single"] = "single"


class Search(SpecModel):
    """Search for settings that meet the criteria. Each trial trains the base model with another learning rate and
    retain weight, the spec's own first. A trial that falls behind is pruned, and the search ends as soon as a trial
    meets every criterion.
    """

    kind: Literal["search"] = "search"
    trials: int = Field(6, ge=1, le=1000, description="Maximum number of trials. Ours.")
    lr: tuple[Rate, Rate] | None = Field(
        None,
        description="Bounds of the learning rate, searched on a logarithmic scale; none: from a tenth of optimizer.lr "
        "to ten times it, or under `lr: auto` the same of optimizer.max_rise instead.",
    )
    retain_weight: tuple[Factor, Factor] | None = Field(
        None,
        description="Bounds of the retain term's weight, searched on a logarithmic scale; none: from a tenth of "
        "retain.weight to ten times it.",
    )
    eval_every: int = Field(5, ge=1, description="Steps between two measurements of the criteria. Ours.")
    eval_rows: int = Field(24, ge=1, description="Rows of each set in such a measurement; the seed selects them. Ours.")
    max_seconds: float | None = Field(
        None, gt=0, description="Seconds after which the search starts no further trial; none: no limit."
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> "Search":
        for name, bounds in (("lr", self.lr), ("retain_weight", self.retain_weight)):
            if bounds and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: the lower bound is above the upper one; give the smaller one first")
        return self


class Ensemble(SpecModel):
    """Train the base model with several recipes, then merge their changes of the weights, or keep the best recipe."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[dict[str, Any], ...] = Field(
        min_length=2,
        max_length=16,
        description=f"Changes of the job's spec, one for each recipe. A recipe may set {', '.join(MEMBER_FIELDS)}.",
    )
    merge: Literal["mean", "ties", "best"] = Field(
        "mean",
        description="mean: average the changes. ties: TIES (arXiv:2306.01708), average the changes of the elected "
        "sign. best: keep the recipe that comes closest to meeting all criteria.",
    )
    density: float = Field(
        0.2, gt=0, le=1, description="Fraction of each change that TIES keeps, the largest values. Paper's."
    )
    eval_rows: int = Field(24, ge=1, description="Rows of each set on which each recipe is measured. Ours.")

    @field_validator("members")
    @classmethod
    def _check_member_fields(cls, members: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        problems = []
        for number, member in enumerate(members):
            for key in islice((key for key in member if key not in MEMBER_FIELDS), MAX_PROBLEMS):
                near = find_nearest(key, MEMBER_FIELDS)
                hint = f"did you mean '{near}'?" if near else f"a member may set {', '.join(MEMBER_FIELDS)}"
                problems.append(f"strategy.members.{number}: a member cannot set '{shorten(key)}'; {hint}")
        if problems:
            raise ValueError("; ".join(problems))
        return members


class Influence(SpecModel):
    """Take one static step instead of a training: theta + (H + damping I)^-1 grad NLL_f, H the Gauss-Newton matrix of
    the retain set (influence unlearning, arXiv:2404.18239, section 4; arXiv:1703.04730).
    """

    kind: Literal["influence"] = "influence"
    iterations: int = Field(
        8,
        ge=1,
        le=200,
        description="Products with H. Each takes the memory of one more copy of the trainable weights. Ours.",
    )
    max_examples: int = Field(
        64,
        ge=1,
        description="Maximum number of retain rows in H, and of rows of each set that the bound is measured on. Ours.",
    )
    damping: float | None = Field(
        None, gt=0, description="Added to the diagonal of H; none: the smallest value that keeps the bound is searched."
    )
    max_retain_increase: float = Field(
        0.1, gt=0, description="Bound on the rise of the retain set's mean NLL, in nats per token. Ours."
    )


Strategy = Annotated[Single | Search | Ensemble | Influence, Field(discriminator="kind")]

#: Without bounds of its own a search divides and multiplies the spec's value by this. Ours.
_SEARCH_FACTOR = 10


#: Sets that a run does not always make: a small retain set is not split, and a model may write nothing.
_SOMETIMES_MADE = frozenset({RETAIN_HELD_OUT, GENERAL_OWN})


def select_search_criteria(spec: "JobSpec", sets: Collection[str]) -> tuple[Criterion, ...]:
    """Return the criteria that a search measures during training on data sets of these names.

    The others count for the verdict only: attacks and sampled answers cost as much as a trial, and the retrained
    model's numbers are of other rows than those a search measures.
    """
    return tuple(
        criterion
        for criterion in spec.expand_criteria(sets)
        if criterion.attack is None
        and not is_compared_with_retrained(criterion)
        and not _is_of_samples(criterion)
        and (criterion.set in sets or criterion.set not in _SOMETIMES_MADE)
    )


def _is_of_samples(criterion: Criterion) -> bool:
    entry = METRIC_CATALOG.get(criterion.metric)
    return entry is not None and entry.needs_samples


def is_compared_with_retrained(criterion: Criterion) -> bool:
    """Return whether a criterion's bound or metric compares with the retrained model."""
    entry = METRIC_CATALOG.get(criterion.metric)
    return criterion.relative_to_retrained or (entry is not None and entry.scope == "retrained")


def get_metric_inputs(criterion: Criterion) -> tuple[tuple[str, str], ...]:
    """Return the (data set, row metric) pairs that a criterion's metric is computed from."""
    return METRIC_CATALOG[criterion.metric].inputs or ((criterion.set, criterion.metric),)


def make_search_space(spec: "JobSpec") -> dict[str, tuple[float, float]]:
    """Return what a search varies: dotted place in the spec -> bounds.

    A retain weight is searched only next to a forget term: alone it would scale the loss and nothing else.
    """
    strategy = spec.strategy
    assert isinstance(strategy, Search)
    if spec.optimizer.lr != "auto":
        space = {"optimizer.lr": strategy.lr or _make_default_bounds(spec.optimizer.lr, MAX_LR)}
    elif strategy.lr:
        space = {"optimizer.lr": strategy.lr}
    else:  # the learning rate follows from the budget
        assert isinstance(spec.optimizer, Sophia | Kfac)
        space = {"optimizer.max_rise": _make_default_bounds(spec.optimizer.max_rise, MAX_RISE)}
    if spec.kind == "unlearn" and not isinstance(spec.retain, NoRetain):
        space["retain.weight"] = strategy.retain_weight or _make_default_bounds(spec.retain.weight, MAX_WEIGHT)
    return space


def _make_default_bounds(value: float, upper_limit: float) -> tuple[float, float]:
    return value / _SEARCH_FACTOR, min(value * _SEARCH_FACTOR, upper_limit)
