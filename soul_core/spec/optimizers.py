"""The optimizers of a spec and the curvature that they use, one frozen class each. Torch-free.

Each `kind` here has one function in the engine's tables (`soul_core.optimizers` and
`soul_core.training.curvature_passes`); a test keeps spec, tables and `docs/reference/methods.md` equal. Field
descriptions are the OpenAPI text, and name who chose a default.
"""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from soul_core.spec.terms import SpecModel

MAX_LR, MAX_RISE = 1.0, 10.0


class _CurvatureSettings(SpecModel):
    """The settings that all estimates of the curvature share."""

    every: int = Field(10, ge=1, description="Steps between two estimates (k in the paper). Paper's value.")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay of the running average of estimates. Paper's value.")
    data: Literal["forget", "retain", "both", "guard"] = Field(
        "guard",
        description="The examples whose curvature is estimated. guard: rows that are neither trained on nor judged, a "
        "part of the retain rows and general text. Ours.",
    )
    warm_start: int = Field(
        1,
        ge=0,
        le=100,
        description="Estimates before the first update; with 0 every step is a sign step until the next estimate. "
        "Paper's value.",
    )
    adaptive: bool = Field(
        False,
        description="Estimate sooner, down to a quarter of `every`, when the unclipped fraction leaves 10 to 50%, and "
        "later, up to four times `every`, while it stays inside. Off as in the paper.",
    )


class Gnb(_CurvatureSettings):
    """Gauss-Newton-Bartlett diagonal (Sophia, arXiv:2305.14342, algorithm 2): labels sampled from the model."""

    kind: Literal["gnb"] = "gnb"


class Hutchinson(_CurvatureSettings):
    """Hutchinson's estimate of the Hessian's diagonal (Sophia, arXiv:2305.14342, algorithm 1), for the examples' NLL.
    It can be negative; such a weight takes a full step of lr.
    """

    kind: Literal["hutchinson"] = "hutchinson"


class EmpiricalFisher(_CurvatureSettings):
    """Squared gradient of the true labels: as fast as gnb and deterministic, but not the curvature where the model is
    wrong (arXiv:1905.12558).
    """

    kind: Literal["empirical_fisher"] = "empirical_fisher"


Curvature = Annotated[Gnb | Hutchinson | EmpiricalFisher, Field(discriminator="kind")]


class AdamW(SpecModel):
    """First order: Adam with decoupled weight decay (arXiv:1711.05101)."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(1e-5, gt=0, le=MAX_LR, description="Learning rate. TOFU's value.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the average of gradients. Paper's value (Adam).")
    beta2: float = Field(
        0.999, ge=0, lt=1, description="Decay of the average of squared gradients. Paper's value (Adam)."
    )
    eps: float = Field(1e-8, gt=0, description="Added to the denominator. Paper's value (Adam).")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled decay of all weights. Ours: no decay.")


class Sophia(SpecModel):
    """Second order: theta - lr * clip(m / max(gamma * h, eps), -1, 1) (Sophia, arXiv:2305.14342; SOUL,
    arXiv:2404.18239).
    """

    kind: Literal["sophia"] = "sophia"
    lr: Annotated[float, Field(gt=0, le=MAX_LR)] | Literal["auto"] = Field(
        "auto",
        description="Learning rate: also the largest change of a weight in one step. auto: chosen at every step so "
        "that the loss on guard rows rises by at most `max_rise` over the run. Ours.",
    )
    max_rise: float = Field(
        0.2,
        gt=0,
        le=MAX_RISE,
        description="With `lr: auto`: rise of the guard rows' mean NLL over the run, in nats per token. Ours.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the momentum, applied once per step. SOUL's value.")
    gamma: Annotated[float, Field(gt=0)] | Literal["auto"] = Field(
        "auto",
        description="Scale of the curvature; a lower value clips more weights. auto: chosen at every step so that "
        "`target_unclipped` of the weights are not clipped. Ours; the paper has 0.01 to 0.05 for batches of half a "
        "million positions.",
    )
    target_unclipped: float = Field(
        0.7, gt=0, lt=1, description="Fraction of the weights that `gamma: auto` leaves unclipped. Ours."
    )
    eps: float = Field(1e-12, gt=0, description="Lower bound of the denominator. Paper's value.")
    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled decay of all weights. Ours: no decay.")
    curvature: Curvature = Field(Gnb(), description="How the curvature h is estimated.")


class Kfac(SpecModel):
    """Second order beyond the diagonal: the momentum of each linear layer, preconditioned by the inverse covariance of
    the layer's inputs on the data to keep (the input side of K-FAC, arXiv:1503.05671; alone as in arXiv:2201.12250).
    Weights outside linear layers are held.
    """

    kind: Literal["kfac"] = "kfac"
    lr: Annotated[float, Field(gt=0, le=MAX_LR)] | Literal["auto"] = Field(
        "auto",
        description="Learning rate: root mean square of the change of a weight in one step. auto: as of sophia. Ours.",
    )
    max_rise: float = Field(
        0.2,
        gt=0,
        le=MAX_RISE,
        description="With `lr: auto`: rise of the guard rows' mean NLL over the run, in nats per token. Ours.",
    )
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the momentum, applied once per step. SOUL's value.")
    damping: float = Field(
        0.1,
        gt=0,
        le=1000,
        description="Added to the covariance, as a multiple of its mean eigenvalue: a lower value keeps the other data "
        "better and forgets more slowly. Ours.",
    )


class UpstreamCompat(SpecModel):
    """The update of the released SOUL code with its faults, for comparisons: the squared gradient of the loss instead
    of curvature, momentum twice per step, the scale 5120, weights in bfloat16 alone where that is the compute type.
    """

    kind: Literal["upstream_compat"] = "upstream_compat"
    lr: float = Field(5e-6, gt=0, le=MAX_LR, description="Learning rate. Authors' value for TOFU.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the momentum, applied twice per step. Authors' value.")
    beta2: float = Field(
        0.95, ge=0, lt=1, description="Decay of the squared gradient, applied once per step. Authors' value."
    )
    rho: float = Field(0.04, gt=0, description="Scale of the squared gradient, times 5120. Authors' value.")
    weight_decay: float = Field(
        0.1, ge=0, le=1, description="Decay of weight matrices only, not of norms and biases. Authors' value for TOFU."
    )


def _refuse_influence(value: Any) -> Any:
    """Name the new place of what version 1 called an optimizer."""
    if isinstance(value, dict) and value.get("kind") == "influence":
        message = "'influence' is not an optimizer but a strategy: set strategy to {example}"
        raise PydanticCustomError("moved_choice", message, {"example": '{"kind": "influence"}'})
    return value


Optimizer = Annotated[
    AdamW | Sophia | Kfac | UpstreamCompat, Field(discriminator="kind"), BeforeValidator(_refuse_influence)
]
