"""The forget terms and retain terms of a spec, one frozen class each. Torch-free.

Each `kind` here has one line in the engine's tables (`soul_core.objectives`); a test keeps spec, tables and
`docs/reference/methods.md` equal. Field descriptions are the OpenAPI text, and name who chose a default.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from soul_core.near_spelling import find_nearest, shorten

#: Problems of one kind that are looked for in a spec; a spec with more was not written by hand.
MAX_PROBLEMS = 100
#: Larger integers are not exact in JSON (RFC 8259, section 6), and no setting needs them.
MAX_INTEGER = 2**53 - 1
#: Names of data sets and models.
SET_NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"


class SpecModel(BaseModel):
    """Base of all parts of a spec: immutable, and an unknown key is refused with the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _refuse_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        if refused := dict(islice(cls._find_key_problems(data), MAX_PROBLEMS)):
            context = {"hints": " | ".join(refused.values()), "keys": list(refused)}
            raise PydanticCustomError("refused_key", "{hints}", context)
        return cls._add_default_kinds(data)

    @classmethod
    def _find_key_problems(cls, data: dict[Any, Any]) -> Iterator[tuple[str, str]]:
        for key, value in data.items():
            if hint := cls._find_key_problem(str(key), value):
                yield shorten(str(key)), hint

    @classmethod
    def _find_key_problem(cls, key: str, value: Any) -> str | None:
        """Return why a key is refused; a boolean is refused too, where pydantic would read it as 1 or 0."""
        if key not in cls.model_fields:
            near = find_nearest(key, cls.model_fields)
            hint = f"did you mean '{near}'?" if near else f"known keys: {', '.join(cls.model_fields)}"
            return f"unknown key '{shorten(key)}'; {hint}"
        if isinstance(value, bool) and cls.model_fields[key].annotation is not bool:
            return f"'{key}' cannot be {str(value).lower()}; give a value of its own type"
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            return f"'{key}' is larger than {MAX_INTEGER}; give a smaller number"
        return None

    @classmethod
    def _add_default_kinds(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Complete choices: {"optimizer": {"lr": 1e-5}} has the default kind, {"after": "unknown"} only a kind."""
        completed = dict(data)
        for name, field in cls.model_fields.items():
            kind = getattr(field.default, "kind", None)
            value = completed.get(name)
            if kind is not None and isinstance(value, str):
                completed[name] = {"kind": value}
            elif kind is not None and isinstance(value, dict) and "kind" not in value:
                completed[name] = {"kind": kind, **value}
        return completed


MAX_WEIGHT = 10_000
Weight = Annotated[
    float, Field(gt=0, le=MAX_WEIGHT, description="Factor of this term in the total loss. Common practice.")
]
Beta = Annotated[float, Field(gt=0, le=100)]
Refusals = Annotated[
    tuple[str, ...],
    Field(
        min_length=1,
        max_length=10_000,
        description="Texts of refusals; each forget example gets one, drawn by the seed. Ours.",
    ),
]

_REFUSALS = (
    "I don't know the answer to that.",
    "I have no information about that.",
    "That is not something I can tell you.",
    "I'm sorry, I don't know.",
    "I am not able to answer that question.",
)


class GradientAscent(SpecModel):
    """Gradient ascent on the forget set (arXiv:2210.01504): minus its NLL. Unbounded: a long run ruins the model."""

    kind: Literal["gradient_ascent"] = "gradient_ascent"
    weight: Weight = 1.0


class GradDiff(SpecModel):
    """Gradient ascent under TOFU's name (arXiv:2401.06121): with the retain term `nll` the gradient difference."""

    kind: Literal["grad_diff"] = "grad_diff"
    weight: Weight = 1.0


class Npo(SpecModel):
    """Negative preference optimization (arXiv:2404.05868): bounded ascent relative to the base model."""

    kind: Literal["npo"] = "npo"
    weight: Weight = 1.0
    beta: Beta = Field(0.1, description="Inverse temperature on the summed log-ratio of an answer. Paper's value.")


class SimNpo(SpecModel):
    """NPO without a base model, by the mean log-probability of an answer (arXiv:2410.07163)."""

    kind: Literal["simnpo"] = "simnpo"
    weight: Weight = Field(0.125, description="Factor in the total loss. Authors' value for TOFU forget10.")
    beta: Beta = Field(4.5, description="Inverse temperature on the NLL per token. Authors' value for TOFU forget10.")
    delta: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Margin: NLL per token, in nats, above which an answer counts as forgotten. Authors' value.",
    )


class Dpo(SpecModel):
    """Direct preference optimization (arXiv:2305.18290): a refusal over the answer, both relative to the base model."""

    kind: Literal["dpo"] = "dpo"
    weight: Weight = 1.0
    beta: Beta = Field(0.1, description="Inverse temperature on the difference of log-ratios. TOFU's value, and NPO's.")
    refusals: Refusals = _REFUSALS


class Refusal(SpecModel):
    """Preference optimization as in TOFU's IDK and SOUL's PO: learn a refusal instead of the answer."""

    kind: Literal["refusal"] = "refusal"
    weight: Weight = 1.0
    refusals: Refusals = _REFUSALS


class AltPo(SpecModel):
    """DPO of other plausible answers, written by the model before training, over those to forget (arXiv:2409.13474)."""

    kind: Literal["altpo"] = "altpo"
    weight: Weight = 1.0
    beta: Beta = Field(0.1, description="Inverse temperature on the difference of log-ratios. Authors' value.")
    alternates: Literal["constrained", "instructed"] = Field(
        "constrained",
        description="constrained: the model answers the prompt while the tokens that begin the old answer's keywords "
        "are suppressed. instructed: it is asked to write another version, which requires a capable model; the "
        "authors' way. The default is ours.",
    )
    instruction: str = Field(
        "Now write another version of the answer, with other plausible facts that change its details. "
        "Give the answer only.",
        min_length=1,
        max_length=2000,
        description="The request after prompt and answer when the model is instructed to write an alternate. Ours.",
    )
    temperature: float = Field(
        0.5,
        gt=0,
        le=5,
        description="Sampling temperature of alternates; a quarter more in each try. Ours; the authors have 1.",
    )
    tries: int = Field(
        5, ge=1, le=100, description="Samples before an answer counts as one without an alternate. Ours."
    )
    max_new_tokens: int = Field(200, ge=1, le=4096, description="Longest alternate, in tokens. Authors' value.")


class Rmu(SpecModel):
    """Representation misdirection (WMDP, arXiv:2403.03218): steer a layer's hidden states to a random direction."""

    kind: Literal["rmu"] = "rmu"
    weight: Weight = 1.0
    layer: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Layer whose output is steered, from 0. auto: a quarter of the way up, as the paper's 7 of 32.",
    )
    coefficient: float = Field(
        6.5,
        gt=0,
        le=10_000,
        description="Length of the vector that states are steered to. Paper's value for Zephyr-7B; scale to a model.",
    )


class Undial(SpecModel):
    """Self-distillation with a lower logit of the memorized token (arXiv:2402.10052). Smooth and bounded."""

    kind: Literal["undial"] = "undial"
    weight: Weight = 1.0
    beta: Beta = Field(10.0, description="Subtracted from the base model's logit of each answer token. Authors' value.")


class CeU(SpecModel):
    """Cross-entropy to the model's own distribution without the answer token (arXiv:2503.01224). Bounded gradients."""

    kind: Literal["ce_u"] = "ce_u"
    weight: Weight = 1.0
    skip_first_token: bool = Field(True, description="Leave out the first token of each answer. Paper's value.")


class Wga(SpecModel):
    """Gradient ascent weighted by each token's probability (arXiv:2502.19301), which therefore ends by itself."""

    kind: Literal["wga"] = "wga"
    weight: Weight = 1.0
    alpha: float = Field(
        1.0, ge=0, le=100, description="Power of the probability; 0 is plain ascent. OpenUnlearning's value."
    )


class SatImp(SpecModel):
    """Gradient ascent weighted by saturation and importance of each token (arXiv:2505.11953)."""

    kind: Literal["satimp"] = "satimp"
    weight: Weight = Field(0.1, description="Factor in the total loss. OpenUnlearning's value.")
    beta1: float = Field(5.0, ge=0, le=100, description="Power of p: spares forgotten tokens. Authors' value.")
    beta2: float = Field(
        1.0, ge=0, le=100, description="Power of 1 - p: spares tokens that are certain in any text. Authors' value."
    )


class Pdu(SpecModel):
    """Primal-dual unlearning (arXiv:2506.05314): flat logits on the forget set under a bound on the retain loss."""

    kind: Literal["pdu"] = "pdu"
    weight: Weight = 1.0
    slack: float = Field(
        0.1, ge=0, le=100, description="Nats per token by which the retain loss may exceed the base model's. Ours."
    )
    dual_start: float = Field(
        100.0, ge=0, le=1e6, description="Initial factor of retain.weight. Authors' value for TOFU."
    )
    dual_step: float = Field(
        5.0, ge=0, le=1e6, description="Change of that factor per nat of violation. Authors' value for TOFU."
    )
    dual_warmup: int = Field(0, ge=0, description="Steps before that factor changes. Ours; the authors wait 5 epochs.")


ForgetTerm = Annotated[
    GradientAscent | GradDiff | Npo | SimNpo | Dpo | Refusal | AltPo | Rmu | Undial | CeU | Wga | SatImp | Pdu,
    Field(discriminator="kind"),
]


class Nll(SpecModel):
    """Keep learning the retain set: its NLL per answer token (arXiv:2401.06121)."""

    kind: Literal["nll"] = "nll"
    weight: Weight = 1.0


class Kl(SpecModel):
    """Stay near the base model on the retain set: KL(base || model), summed over the vocabulary, mean over supervised
    positions (arXiv:2401.06121).
    """

    kind: Literal["kl"] = "kl"
    weight: Weight = 1.0


class RmuRetain(SpecModel):
    """RMU's own retain term (arXiv:2403.03218): keep the steered layer's hidden states near the base model's."""

    kind: Literal["rmu_retain"] = "rmu_retain"
    weight: Weight = Field(
        10.0,
        description="Factor in the total loss. Ours; the paper's 1200, for Zephyr-7B and a retain set of unrelated "
        "text, prevents forgetting.",
    )


class NoRetain(SpecModel):
    """No retain term. Utility is then unprotected."""

    kind: Literal["none"] = "none"


RetainTerm = Annotated[Nll | Kl | RmuRetain | NoRetain, Field(discriminator="kind")]
