"""The choices of a spec: optimizers and their curvature, one frozen class each. Torch-free.

Each `kind` here has one function in the engine's tables (`optimizers`, `curvature_passes`); a test holds both, and
`docs/reference/methods.md`, equal.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from soul_core.spec.terms import SpecModel

MAX_LR = 1.0


class _Estimated(SpecModel):
    """What every estimate of the curvature has in common."""

    every: int = Field(10, ge=1, description="Steps between two estimates (k of the paper).")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay of the running estimate. Paper's value.")
    data: Literal["forget", "retain", "both"] = Field(
        "retain", description="Examples whose curvature is taken; influence unlearning takes the data that stays."
    )
    warm_start: int = Field(
        1, ge=0, le=100, description="Estimates before the first update; with 0 steps are sign steps up to the next."
    )
    adaptive: bool = Field(
        False,
        description="Estimate sooner, down to a quarter of `every`, when the unclipped fraction leaves 10 to 50%; "
        "later, up to four times, while it stays inside.",
    )


class Gnb(_Estimated):
    """Gauss-Newton-Bartlett diagonal (Sophia, arXiv:2305.14342, algorithm 2): labels sampled from the model."""

    kind: Literal["gnb"] = "gnb"


class Hutchinson(_Estimated):
    """Hutchinson's estimate of the Hessian's diagonal (Sophia, arXiv:2305.14342, algorithm 1), of the examples' NLL.
    It can be negative; such a weight takes a whole step of lr.
    """

    kind: Literal["hutchinson"] = "hutchinson"


class EmpiricalFisher(_Estimated):
    """Squared gradient of the true labels: as cheap as gnb and deterministic, but no curvature where the model is
    wrong (arXiv:1905.12558).
    """

    kind: Literal["empirical_fisher"] = "empirical_fisher"


Curvature = Annotated[Gnb | Hutchinson | EmpiricalFisher, Field(discriminator="kind")]


class AdamW(SpecModel):
    """First order: Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(1e-5, gt=0, le=MAX_LR, description="Learning rate.")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, le=1)


class Sophia(SpecModel):
    """Second order: theta - lr * clip(m / max(gamma * h, eps), -1, 1) (Sophia, arXiv:2305.14342; SOUL,
    arXiv:2404.18239).
    """

    kind: Literal["sophia"] = "sophia"
    lr: float = Field(
        2e-5, gt=0, le=MAX_LR, description="Learning rate: also the largest change of a weight in a step."
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the momentum, applied once a step.")
    gamma: float = Field(1.0, gt=0, description="Scale of the curvature; lower clips more weights.")
    eps: float = Field(1e-12, gt=0, description="Floor of the denominator.")
    weight_decay: float = Field(0.0, ge=0, le=1)
    curvature: Curvature = Gnb()


class UpstreamCompat(SpecModel):
    """The update of the released SOUL code with its faults, to compare with: the loss's own squared gradient instead
    of curvature, momentum twice a step, the scale 5120, weights in bfloat16 alone where that is the compute type.
    """

    kind: Literal["upstream_compat"] = "upstream_compat"
    lr: float = Field(5e-6, gt=0, le=MAX_LR, description="Learning rate.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the momentum, applied twice a step.")
    beta2: float = Field(0.95, ge=0, lt=1, description="Decay of the squared gradient, applied once a step.")
    rho: float = Field(0.04, gt=0, description="Scale of the squared gradient, times 5120.")
    weight_decay: float = Field(0.1, ge=0, le=1, description="Of weight matrices only: no norms, no biases.")


def _refuse_influence(value: Any) -> Any:
    if isinstance(value, dict) and value.get("kind") == "influence":
        raise PydanticCustomError(
            "moved_choice",
            "'influence' is not an optimizer but a strategy: set strategy to {example}",
            {"example": '{"kind": "influence"}'},
        )
    return value


Optimizer = Annotated[AdamW | Sophia | UpstreamCompat, Field(discriminator="kind"), BeforeValidator(_refuse_influence)]
