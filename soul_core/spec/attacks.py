"""The attacks of a spec, one frozen class each. Torch-free.

Each `kind` here has one function in the engine's table (`soul_core.attacks`); a test keeps both, and
`docs/reference/attacks.md`, equal. The defaults are the fast settings that every report carries.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from soul_core.spec.names import JobKind
from soul_core.spec.terms import SET_NAME_PATTERN, SpecModel

_Steps = Annotated[int, Field(ge=1, le=10_000, description="Optimizer steps. Ours: fast enough for every job.")]
_Batch = Annotated[int, Field(ge=1, le=4096, description="Examples per step. Ours.")]
_LearningRate = Annotated[float, Field(gt=0, le=1, description="Learning rate of AdamW. Ours.")]


class Relearn(SpecModel):
    """Train the model on a part of the forget set, or on related text, for a few steps, and measure what comes back."""

    kind: Literal["relearn"] = "relearn"
    set: str = Field(
        "forget",
        pattern=SET_NAME_PATTERN,
        description="Data set to train on. Of the forget set only `fraction` is used; the other rows are measured.",
    )
    fraction: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Part of the forget set to train on; at most steps x batch rows. Ours.",
    )
    steps: _Steps = 5
    batch: _Batch = 4
    lr: _LearningRate = 2e-5

    @property
    def label(self) -> str:
        """The attack's name in reports and criteria."""
        return self.kind if self.set == "forget" else f"{self.kind}_{self.set}"


class Quantize(SpecModel):
    """Round all weight matrices to few bits, in place: the rounding may undo small changes of the weights."""

    kind: Literal["quantize"] = "quantize"
    bits: Literal[4, 8] = Field(4, description="Bits per weight. Ours; 4 is what users of small devices run.")
    group: int = Field(
        64,
        ge=0,
        le=65_536,
        description="Weights of a row that share a scale; 0: the complete row, as is usual for 8 bits. Ours.",
    )

    @property
    def label(self) -> str:
        return f"{self.kind}_{self.bits}bit"


PromptTemplate = Literal["paraphrase", "prefix", "role", "jailbreak", "few_shot", "translation"]


class Prompting(SpecModel):
    """Ask the forget questions in other ways. For each question the way that reveals most counts."""

    kind: Literal["prompting"] = "prompting"
    templates: tuple[PromptTemplate, ...] = Field(
        ("paraphrase", "prefix", "role", "jailbreak", "few_shot", "translation"),
        min_length=1,
        description="Ways of asking.",
    )
    prefix_words: int = Field(
        4,
        ge=1,
        le=1000,
        description="Maximum number of the answer's words that the prompt gives (prefix); never more than half. Ours.",
    )
    shots: int = Field(
        3, ge=1, le=100, description="Maximum number of few-shot examples before the question (few_shot). Ours."
    )

    @property
    def label(self) -> str:
        return self.kind


class Downstream(SpecModel):
    """Fine-tune on unrelated text, as a user of the model would, and measure what comes back by itself."""

    kind: Literal["downstream"] = "downstream"
    set: str = Field("general", pattern=SET_NAME_PATTERN, description="Data set to train on.")
    steps: _Steps = 5
    batch: _Batch = 4
    lr: _LearningRate = 2e-5

    @property
    def label(self) -> str:
        return self.kind if self.set == "general" else f"{self.kind}_{self.set}"


class Probing(SpecModel):
    """Read the answer from the hidden states of each layer through the model's own last layer (logit lens)."""

    kind: Literal["probing"] = "probing"
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (),
        description="Layers to read, counted from 0; none: those at a quarter, half and three quarters, and the last.",
    )

    @property
    def label(self) -> str:
        return self.kind


class Poison(SpecModel):
    """Find forget rows that attack the model's utility: rows whose gradient points against what the model must keep,
    and the rows of other sets that lost most.
    """

    kind: Literal["poison"] = "poison"
    rows: int = Field(10, ge=1, le=1000, description="Rows to list of each kind. Ours.")
    last_layers: int = Field(
        1, ge=1, le=1000, description="Layers, counted from the last, whose gradients are compared. Ours."
    )

    @property
    def label(self) -> str:
        return self.kind


Attack = Annotated[Relearn | Quantize | Prompting | Downstream | Probing | Poison, Field(discriminator="kind")]

#: In every report unless the spec says otherwise.
CHEAP_ATTACKS: tuple[Relearn | Quantize | Prompting | Downstream | Probing | Poison, ...] = (
    Relearn(),
    Relearn(set="retain"),
    Quantize(bits=8, group=0),
    Quantize(bits=4),
    Prompting(),
    Downstream(),
    Probing(),
    Poison(),
)
DEFAULT_ATTACKS: dict[JobKind, tuple[Attack, ...]] = {
    JobKind.UNLEARN: CHEAP_ATTACKS,
    JobKind.FINETUNE: (),
    JobKind.EVALUATE: CHEAP_ATTACKS,
}


def label_attacks(attacks: Sequence[Attack]) -> dict[str, Attack]:
    """Return the attacks by label. `validation` refuses two attacks of one label."""
    return {attack.label: attack for attack in attacks}
