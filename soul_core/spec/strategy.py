"""The choices of a spec for how often the base is trained: once, searching for settings, or several to be merged.

Torch-free. Each `kind` here has one function in the engine's table (`strategies`); a test holds both, and
`docs/reference/methods.md`, equal.
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from soul_core.spec.optimizers import MAX_LR
from soul_core.spec.terms import MAX_WEIGHT, SpecModel

Rate = Annotated[float, Field(gt=0, le=MAX_LR)]
Factor = Annotated[float, Field(gt=0, le=MAX_WEIGHT)]

#: What a recipe of an ensemble may choose for itself. All else (what is measured, judged and written) is the job's.
MEMBER_FIELDS = (
    "forget", "retain", "optimizer", "parameters", "saliency", "sharpness", "lora", "training", "seed",
)  # fmt: skip


class Single(SpecModel):
    """Train once, with the settings as they stand."""

    kind: Literal["single"] = "single"


class Search(SpecModel):
    """Goal-seeking: instead of a learning rate the criteria are what counts. Few trials from the base, each with
    another learning rate and retain weight, the spec's own first; one that lags behind is given up, and all ends as
    soon as a trial holds every criterion.
    """

    kind: Literal["search"] = "search"
    trials: int = Field(6, ge=1, le=1000, description="Most trials.")
    lr: tuple[Rate, Rate] | None = Field(
        None,
        description="Bounds of the learning rate, searched by its logarithm; none: from a tenth to ten times "
        "optimizer.lr.",
    )
    retain_weight: tuple[Factor, Factor] | None = Field(
        None,
        description="Bounds of the retain term's weight, searched by its logarithm; none: from a tenth to ten times "
        "retain.weight.",
    )
    eval_every: int = Field(5, ge=1, description="Steps between two measurements of the criteria.")
    eval_rows: int = Field(24, ge=1, description="Rows of each set that such a measurement takes; chosen by the seed.")
    max_seconds: float | None = Field(None, gt=0, description="No trial starts after this many seconds of searching.")

    @model_validator(mode="after")
    def _ordered(self) -> "Search":
        for name, bounds in (("lr", self.lr), ("retain_weight", self.retain_weight)):
            if bounds and bounds[0] > bounds[1]:
                raise ValueError(f"{name}: give two positive numbers, the smaller one first")
        return self


class Ensemble(SpecModel):
    """Several recipes, each from the base; their changes of the weights are merged, or the best recipe is kept."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[dict[str, Any], ...] = Field(
        min_length=2,
        max_length=16,
        description=f"Parts of a spec ({', '.join(MEMBER_FIELDS)}), each laid over the job's own.",
    )
    merge: Literal["mean", "ties", "best"] = Field(
        "mean",
        description="mean: of the changes. ties: TIES (arXiv:2306.01708), the changes of the elected sign. best: the "
        "recipe that is nearest to holding all criteria.",
    )
    density: float = Field(0.2, gt=0, le=1, description="TIES keeps this share of each change, the largest. Paper's.")
    eval_rows: int = Field(24, ge=1, description="Rows of each set that each recipe is measured on.")

    @field_validator("members")
    @classmethod
    def _choose_only_their_own(cls, members: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        wrong = [(number, key) for number, member in enumerate(members) for key in member if key not in MEMBER_FIELDS]
        found = []
        for number, key in wrong:
            near = difflib.get_close_matches(key, MEMBER_FIELDS, n=1, cutoff=0.6)
            hint = f"did you mean '{near[0]}'?" if near else f"a member may hold {', '.join(MEMBER_FIELDS)}"
            found.append(f"strategy.members.{number}: '{key}' is not a member's to choose; {hint}")
        if found:
            raise ValueError("; ".join(found))
        return members


Strategy = Annotated[Single | Search | Ensemble, Field(discriminator="kind")]
