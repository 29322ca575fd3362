"""Parts of a spec that combine with any term and any optimizer: which weights are trained, and how. Torch-free."""

from typing import Annotated, Any, Literal

from pydantic import Field

from soul_core.spec.terms import SpecModel


class ParameterSelection(SpecModel):
    """Which weights are trained, by patterns over their names: globs, or regular expressions after `re:`."""

    include: tuple[str, ...] = Field(
        ("*",),
        min_length=1,
        description="A weight is trained if one of these patterns matches its name: model.layers.[5-7].*",
    )
    exclude: tuple[str, ...] = Field((), description="Exceptions: weights that are not trained although included.")


class Sharpness(SpecModel):
    """Sharpness-aware forget gradient (arXiv:2502.05374): taken where the forget loss is worst nearby."""

    rho: float = Field(0.01, gt=0, le=10, description="Radius of the neighborhood, as L2 norm over all weights. Ours.")


class LatentPerturbation(SpecModel):
    """Forget gradient at hidden states that were changed to bring the answers back (LAT, arXiv:2407.15549)."""

    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Layers whose outputs are changed, counted from 0; none: those at a quarter, half and three "
        "quarters. Ours, spaced as the paper's.",
    )
    radius: float = Field(
        0.5,
        gt=0,
        le=10,
        description="Largest L2 norm of a change, as a fraction of the state's own norm at that position. Ours; the "
        "paper has a number for each model.",
    )
    steps: int = Field(4, ge=1, le=100, description="Steps of the inner ascent. Ours; the paper has 6 to 16.")
    positions: Literal["prompt", "all"] = Field(
        "all",
        description="Positions whose states are changed: those of the prompt, as in the paper, or all; of plain text "
        "always all. Ours.",
    )


#: What `robust: true` sets where the spec has no value of its own. Measured: docs/reference/results.md.
ROBUST_DEFAULTS: dict[str, Any] = {"sharpness": {"rho": 0.1}}


class Saliency(SpecModel):
    """Train only the weights that matter most for the forget set. They are selected once, on the base model."""

    keep_fraction: float = Field(0.5, gt=0, lt=1, description="Fraction of the weights that is trained. SalUn's value.")
    score: Literal["gradient", "relative", "wagle"] = Field(
        "gradient",
        description="gradient: |gradient of the forget NLL| (SalUn, arXiv:2310.12508). relative: the same divided by "
        "that of the retain set. wagle: |w g_f - g_r g_f / gamma| (arXiv:2410.17509).",
    )
    gamma: float = Field(1.0, gt=0, description="Curvature that `wagle` assumes; no other score reads it. Ours.")
    max_examples: int = Field(
        256, ge=1, description="Maximum number of examples of each set that the scores are computed on. Ours."
    )


class Lora(SpecModel):
    """Low-rank adapters next to frozen weights (arXiv:2106.09685): only the adapters are trained."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of each adapter. Ours.")
    alpha: int = Field(32, ge=1, description="Adapters are scaled by alpha / rank. Ours.")
    targets: tuple[str, ...] = Field(
        ("all-linear",),
        min_length=1,
        description="Names of the linear layers that get an adapter (q_proj, down_proj); all-linear: all but the last.",
    )
    base_weights: Literal["float32", "bfloat16", "int8", "nf4"] = Field(
        "float32",
        description="Type of the frozen weights during training. int8 and nf4 (4 bits) need torchao.",
    )
    output: Literal["merged", "adapter"] = Field(
        "merged", description="merged: write a complete checkpoint. adapter: write only the adapters, in peft's format."
    )
