"""The choices of a spec: optimizers and their curvature, one frozen class each. Torch-free.

Each `kind` here has one function in the engine's tables (`optimizers`); a test holds both, and `docs/methods.md`,
equal.
"""

from typing import Annotated, Literal

from pydantic import Field

from soul_core.spec_terms import Frozen


class Gnb(Frozen):
    """Gauss-Newton-Bartlett diagonal (Sophia, arXiv:2305.14342, algorithm 2): labels sampled from the model."""

    kind: Literal["gnb"] = "gnb"
    every: int = Field(10, ge=1, description="Steps between two estimates (k of the paper).")
    beta2: float = Field(0.99, ge=0, lt=1, description="Decay of the running estimate. Paper's value.")
    data: Literal["forget", "retain", "both"] = Field(
        "retain", description="Examples whose curvature is taken; influence unlearning takes the data that stays."
    )
    warm_start: int = Field(
        1, ge=0, le=100, description="Estimates averaged before the first update; with 0 it is a sign step."
    )


Curvature = Annotated[Gnb, Field(discriminator="kind")]


class AdamW(Frozen):
    """First order: Adam with decoupled weight decay."""

    kind: Literal["adamw"] = "adamw"
    lr: float = Field(1e-5, gt=0, le=1, description="Learning rate.")
    beta1: float = Field(0.9, ge=0, lt=1)
    beta2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(0.0, ge=0, le=1)


class Sophia(Frozen):
    """Second order: theta - lr * clip(m / max(gamma * h, eps), -1, 1) (Sophia, arXiv:2305.14342; SOUL,
    arXiv:2404.18239).
    """

    kind: Literal["sophia"] = "sophia"
    lr: float = Field(2e-5, gt=0, le=1, description="Learning rate: also the largest change of a weight in a step.")
    beta1: float = Field(0.9, ge=0, lt=1, description="Decay of the momentum, applied once a step.")
    gamma: float = Field(1.0, gt=0, description="Scale of the curvature; lower clips more weights.")
    eps: float = Field(1e-12, gt=0, description="Floor of the denominator.")
    weight_decay: float = Field(0.0, ge=0, le=1)
    curvature: Curvature = Gnb()


Optimizer = Annotated[AdamW | Sophia, Field(discriminator="kind")]
