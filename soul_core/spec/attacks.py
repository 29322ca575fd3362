"""The attacks of a spec, one frozen class each. Torch-free.

Each `kind` has one function in the table of `soul_core.attacks`; a test compares them with docs/reference/attacks.md.
Defaults are the cheap settings that every report carries; deeper ones are the spec's to ask for.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from soul_core.spec.terms import SET_NAME_PATTERN, SpecModel

#: How attacks learn.
_Steps = Annotated[int, Field(ge=1, le=10_000, description="Optimizer steps.")]
_Batch = Annotated[int, Field(ge=1, le=4096, description="Examples a step.")]
_LearningRate = Annotated[float, Field(gt=0, le=1, description="Learning rate (AdamW).")]


class Relearn(SpecModel):
    """Learn a part of the forget set again, or related text, for a few steps, and see how much comes back."""

    kind: Literal["relearn"] = "relearn"
    set: str = Field(
        "forget",
        pattern=SET_NAME_PATTERN,
        description="Data set that is learned. Of the forget set only `share` is, and the rest is what is measured.",
    )
    fraction: float = Field(
        0.25,
        gt=0,
        lt=1,
        description="Part of the forget set that is learned again: at most as many rows as steps x batch.",
    )
    steps: _Steps = 5
    batch: _Batch = 4
    lr: _LearningRate = 2e-5

    @property
    def label(self) -> str:
        """Return the attack's name in reports and criteria."""
        return self.kind if self.set == "forget" else f"{self.kind}_{self.set}"


class Quantize(SpecModel):
    """Round all weight matrices to few bits and back, in place: a small change of the weights may be rounded away."""

    kind: Literal["quantize"] = "quantize"
    bits: Literal[4, 8] = Field(4, description="Bits a weight.")
    group: int = Field(
        64,
        ge=0,
        le=65_536,
        description="Weights that share a scale, along a row; 0: the whole row, as is usual for int8.",
    )

    @property
    def label(self) -> str:
        return f"{self.kind}_{self.bits}bit"


PromptTemplate = Literal["paraphrase", "prefix", "role", "jailbreak", "few_shot", "translation"]


class Prompting(SpecModel):
    """Ask the forget questions in other ways; of each question the way that brings out most counts."""

    kind: Literal["prompting"] = "prompting"
    templates: tuple[PromptTemplate, ...] = Field(
        ("paraphrase", "prefix", "role", "jailbreak", "few_shot", "translation"),
        min_length=1,
        description="Ways of asking.",
    )
    prefix_words: int = Field(
        4, ge=1, le=1000, description="Most words of the answer put into the model's mouth; never more than half of it."
    )
    shots: int = Field(3, ge=1, le=100, description="Most questions and answers shown in front (few_shot).")

    @property
    def label(self) -> str:
        return self.kind


class Downstream(SpecModel):
    """Fine-tune on unrelated text, as a user of the model would, and see what comes back by itself."""

    kind: Literal["downstream"] = "downstream"
    set: str = Field("general", pattern=SET_NAME_PATTERN, description="Data set that is learned.")
    steps: _Steps = 5
    batch: _Batch = 4
    lr: _LearningRate = 2e-5

    @property
    def label(self) -> str:
        return self.kind if self.set == "general" else f"{self.kind}_{self.set}"


class Probing(SpecModel):
    """Read the answer off the hidden states: each layer's states through the model's own last layer (logit lens)."""

    kind: Literal["probing"] = "probing"
    layers: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        (), description="Layers to read, from 0; none: a quarter, half, three quarters, last."
    )

    @property
    def label(self) -> str:
        return self.kind


class Poison(SpecModel):
    """Look for forget rows that aim at the model's utility, and show whom they hit: rows whose gradient points against
    what must be kept, and the rows of other sets that lost most.
    """

    kind: Literal["poison"] = "poison"
    rows: int = Field(10, ge=1, le=1000, description="Rows shown of each kind.")
    last_layers: int = Field(1, ge=1, le=1000, description="Layers, from the last, whose gradients are compared.")

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


def label_attacks(attacks: Sequence[Attack]) -> dict[str, Attack]:
    """Return the attacks by label; a second one of the same label has `_2` behind it, and so on."""
    found: dict[str, Attack] = {}
    for attack in attacks:
        label, number = attack.label, 1
        while label in found:
            number += 1
            label = f"{attack.label}_{number}"
        found[label] = attack
    return found
