"""What a loaded model can do: packed or padded batches, decoding with a cache.

`load_model` determines it once by running the model (`probes`) and stores it on the model, so code that scores or
generates does not depend on the architecture.
"""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from soul_core.models.packed_attention import PACKED_ATTENTION

BatchLayout = Literal["packed", "padded"]
_ATTRIBUTE = "soul_capabilities"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """How a model processes several texts at once."""

    batch_layout: BatchLayout
    #: With a cache and left padding it computes what it does from the complete text. If not, every token is computed
    #: from the complete text.
    supports_cache: bool = True
    #: Longer texts have other rotary frequencies (LongRoPE), so short and long ones never share a call.
    max_short_rope_tokens: int | None = None


def get_capabilities(model: PreTrainedModel) -> Capabilities:
    """Return what `load_model` stored, or, for a model that it did not load, what the model's attention implies."""
    capabilities = getattr(model, _ATTRIBUTE, None)
    if isinstance(capabilities, Capabilities):
        return capabilities
    return Capabilities("packed" if model.config._attn_implementation == PACKED_ATTENTION else "padded")  # noqa: SLF001


def set_capabilities(model: PreTrainedModel, capabilities: Capabilities) -> None:
    """Store on the model what `get_capabilities` returns."""
    setattr(model, _ATTRIBUTE, capabilities)


def get_max_short_rope_tokens(model: PreTrainedModel) -> int | None:
    """Return the length in tokens up to which LongRoPE uses its short factors; None: frequencies are fixed.

    Source: LongRoPE (Ding et al., arXiv:2402.13753), as Phi-3 uses it. Dynamic NTK scaling changes frequencies beyond
    the context length only, and texts are not longer than that.
    """
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    per_layer_type = [value for value in parameters.values() if isinstance(value, dict)]
    limits = [
        rope.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        for rope in (per_layer_type or [parameters])
        if rope.get("rope_type") == "longrope"
    ]
    return min((int(limit) for limit in limits if limit), default=None)
