"""The choices of a spec that go with any term and any optimizer: which weights move, and how. Torch-free."""

from typing import Literal

from pydantic import Field

from soul_core.spec.terms import SpecModel


class ParameterSelection(SpecModel):
    """Which weights may move, by patterns over their names: globs, or regular expressions behind `re:`."""

    include: tuple[str, ...] = Field(
        ("*",), min_length=1, description="A weight moves when one of these matches its name: model.layers.[5-7].*"
    )
    exclude: tuple[str, ...] = Field((), description="Exceptions: weights that stay although included.")


class Sharpness(SpecModel):
    """Sharpness-aware forget gradient (arXiv:2502.05374): taken where the forget loss is worst nearby."""

    rho: float = Field(0.01, gt=0, le=10, description="Radius of the neighborhood, as L2 norm over all weights.")


class Saliency(SpecModel):
    """Only the weights that matter most for the forget set move; the choice is made once, on the base model."""

    keep_fraction: float = Field(0.5, gt=0, lt=1, description="Fraction of the weights that train. SalUn's default.")
    score: Literal["gradient", "relative", "wagle"] = Field(
        "gradient",
        description="gradient: |gradient of the forget NLL| (SalUn, arXiv:2310.12508). relative: the same over the "
        "retain set's. wagle: |w g_f - g_r g_f / gamma| (arXiv:2410.17509).",
    )
    gamma: float = Field(1.0, gt=0, description="Curvature that `wagle` takes for granted; no other score reads it.")
    max_examples: int = Field(256, ge=1, description="Most examples of each set that the choice looks at.")


class Lora(SpecModel):
    """Low-rank adapters beside frozen weights (arXiv:2106.09685): only they are trained."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of each adapter.")
    alpha: int = Field(32, ge=1, description="Adapters are scaled by alpha / rank.")
    targets: tuple[str, ...] = Field(
        ("all-linear",),
        min_length=1,
        description="Names of the linear layers that get one (q_proj, down_proj); all-linear: all but the last.",
    )
    base_weights: Literal["float32", "bfloat16", "int8", "nf4"] = Field(
        "float32",
        description="How the frozen weights beside the adapters are kept while they train. int8 and nf4 (4 bits) need "
        "torchao.",
    )
    output: Literal["merged", "adapter"] = Field(
        "merged", description="merged: a whole checkpoint. adapter: peft's folder of the adapters alone."
    )
