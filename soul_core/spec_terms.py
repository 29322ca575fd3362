"""The choices of a spec: forget terms and retain terms, one frozen class each. Torch-free.

Each `kind` here has one function in the engine's tables (`objectives`);
a test holds both, and `docs/methods.md`, equal. Field descriptions are the OpenAPI text.
"""

import difflib
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class Frozen(BaseModel):
    """Base of everything in a spec: immutable, and an unknown key is refused with the near spelling."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := [key for key in data if key not in cls.model_fields]):
            known = list(cls.model_fields)
            hints = []
            for key in unknown:
                near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
                hint = f"did you mean '{near[0]}'?" if near else f"known keys: {', '.join(known)}"
                hints.append(f"unknown key '{key}'; {hint}")
            raise PydanticCustomError("unknown_key", "{hints}", {"hints": " | ".join(hints), "keys": unknown})
        return cls._with_default_kinds(data) if isinstance(data, dict) else data

    @classmethod
    def _with_default_kinds(cls, data: dict[str, Any]) -> dict[str, Any]:
        """A choice without its `kind` is the default one: {"optimizer": {"lr": 1e-5}} changes only the rate."""
        filled = dict(data)
        for name, field in cls.model_fields.items():
            kind = getattr(field.default, "kind", None)
            if kind is not None and isinstance(filled.get(name), dict) and "kind" not in filled[name]:
                filled[name] = {"kind": kind, **filled[name]}
        return filled


Weight = Annotated[float, Field(gt=0, le=1000, description="Factor of this term in the total loss.")]


class GradDiff(Frozen):
    """Gradient ascent on the forget set: minus its NLL. With a retain term this is the gradient difference."""

    kind: Literal["grad_diff"] = "grad_diff"
    weight: Weight = 1.0


class Npo(Frozen):
    """Negative preference optimisation (arXiv:2404.05868): bounded ascent relative to the base model."""

    kind: Literal["npo"] = "npo"
    weight: Weight = 1.0
    beta: float = Field(
        0.1, gt=0, le=100, description="Inverse temperature on the summed log-ratio of an answer. Paper's value."
    )


class Refusal(Frozen):
    """Preference optimisation as TOFU's IDK and SOUL's PO do it: learn a refusal in place of the answer."""

    kind: Literal["refusal"] = "refusal"
    weight: Weight = 1.0
    refusals: tuple[str, ...] = Field(
        (
            "I don't know the answer to that.",
            "I have no information about that.",
            "That is not something I can tell you.",
            "I'm sorry, I don't know.",
            "I am not able to answer that question.",
        ),
        min_length=1,
        description="Refusals to draw from; each forget example gets one, by the seed.",
    )


ForgetTerm = Annotated[GradDiff | Npo | Refusal, Field(discriminator="kind")]


class Nll(Frozen):
    """Keep learning the retain set: its NLL per answer token."""

    kind: Literal["nll"] = "nll"
    weight: Weight = 1.0


class Kl(Frozen):
    """Stay near the base model on the retain set: KL(base || model), summed over the vocabulary, mean over
    supervised positions.
    """

    kind: Literal["kl"] = "kl"
    weight: Weight = 1.0


class NoRetain(Frozen):
    """No retain term: the forget term alone. Utility is then unprotected."""

    kind: Literal["none"] = "none"


RetainTerm = Annotated[Nll | Kl | NoRetain, Field(discriminator="kind")]
