"""The choices of a spec for how often the base is trained: once, searching for settings, or several to be merged.

Torch-free. Each `kind` here has one function in the engine's table (`strategies`); a test holds both, and
`docs/methods.md`, equal.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from soul_core.spec.terms import Frozen


class Single(Frozen):
    """Train once, with the settings as they stand."""

    kind: Literal["single"] = "single"


class Search(Frozen):
    """Goal-seeking: instead of a learning rate the criteria are what counts. Few trials from the base, each with
    another learning rate and retain weight; one that lags behind is given up, and all ends as soon as a trial holds
    every criterion.
    """

    kind: Literal["search"] = "search"
    trials: int = Field(6, ge=1, le=1000, description="Most trials.")
    lr: tuple[float, float] = Field((2e-6, 2e-4), description="Bounds of the learning rate, searched by its logarithm.")
    retain_weight: tuple[float, float] = Field(
        (1.0, 20.0), description="Bounds of the retain term's weight, searched by its logarithm."
    )
    check_every: int = Field(5, ge=1, description="Steps between two looks at the criteria.")
    rows: int = Field(24, ge=1, description="Rows of each set that such a look measures; chosen by the seed.")
    seconds: float | None = Field(None, gt=0, description="No trial begins after so many seconds of searching.")

    @model_validator(mode="after")
    def _ordered(self) -> "Search":
        for name, (low, high) in (("lr", self.lr), ("retain_weight", self.retain_weight)):
            if not 0 < low <= high:
                raise ValueError(f"{name}: give two positive numbers, the smaller one first")
        return self


class Ensemble(Frozen):
    """Several recipes, each from the base; their changes of the weights are merged, or the best recipe is kept."""

    kind: Literal["ensemble"] = "ensemble"
    members: tuple[dict[str, Any], ...] = Field(
        min_length=2,
        max_length=16,
        description="Parts of a spec (forget, retain, optimizer, training, seed, ...), each laid over the job's own.",
    )
    merge: Literal["mean", "ties", "best"] = Field(
        "mean",
        description="mean: of the changes. ties: TIES (arXiv:2306.01708), the changes of the elected sign. best: the "
        "recipe that is nearest to holding all criteria.",
    )
    density: float = Field(0.2, gt=0, le=1, description="TIES keeps this share of each change, the largest. Paper's.")
    rows: int = Field(24, ge=1, description="Rows of each set that each recipe is measured on.")


Strategy = Annotated[Single | Search | Ensemble, Field(discriminator="kind")]
