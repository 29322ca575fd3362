"""What a loaded model can do: packed or padded batches, decoding with a cache.

`load_model` finds it once, by running the model (`probes`), and keeps it on the model: whoever scores or generates need
not know the architecture.
"""

from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedModel

from soul_core.models.packed_attention import PACKED_ATTENTION

BatchLayout = Literal["packed", "padded"]
_KEPT_AS = "soul_capabilities"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """How a model takes several texts at once."""

    batch_layout: BatchLayout
    #: A cache and left padding give what the whole text gives; without it every token is computed from the whole text.
    supports_cache: bool = True
    #: Texts longer than this take other rotary frequencies (LongRoPE), so short and long ones never share a call.
    max_short_rope_tokens: int | None = None


def get_capabilities(model: PreTrainedModel) -> Capabilities:
    """Return what was found when the model was loaded; of a model built otherwise, what its attention says."""
    found = getattr(model, _KEPT_AS, None)
    if isinstance(found, Capabilities):
        return found
    return Capabilities("packed" if model.config._attn_implementation == PACKED_ATTENTION else "padded")  # noqa: SLF001


def set_capabilities(model: PreTrainedModel, capabilities: Capabilities) -> None:
    """Keep on the model what `capabilities_of` returns."""
    setattr(model, _KEPT_AS, capabilities)


def get_max_short_rope_tokens(model: PreTrainedModel) -> int | None:
    """Return the longest text that takes LongRoPE's short factors; None where length does not change frequencies.

    Source: LongRoPE (Ding et al., arXiv:2402.13753), as Phi-3 uses it. Dynamic NTK scaling changes frequencies beyond
    the context length only, and no text is longer than that.
    """
    config = model.config.get_text_config()
    parameters = getattr(config, "rope_parameters", None) or {}
    layered = [value for value in parameters.values() if isinstance(value, dict)]
    limits = [
        one.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
        for one in (layered or [parameters])
        if one.get("rope_type") == "longrope"
    ]
    return min((int(limit) for limit in limits if limit), default=None)
