"""Rotary position embeddings of a GGUF file as transformers' `rope_parameters`. Torch-free.

Source: llama.cpp's `rope.*` keys and their defaults (base 10000, scaling factor 1); the factors of Llama 3.1 and later
lie in the tensor `rope_freqs.weight`, which llama.cpp divides each frequency by.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soul_core.errors import BadModel
from soul_core.models.gguf_defaults import get_number_or
from soul_core.models.gguf_header import GgufHeader

ROPE_FACTORS_TENSOR = "rope_freqs.weight"
#: (low_freq_factor, high_freq_factor, original_max_position_embeddings) that published models have.
_LLAMA3 = ((1.0, 4.0, 8192), (1.0, 4.0, 4096), (1.0, 4.0, 2048))
_TOLERANCE = 1e-4


def make_rope_parameters(header: GgufHeader, factors: NDArray[np.float32] | None, *, head_dim: int) -> dict[str, Any]:
    """Return the parameters; `factors` is the tensor of that name. Raises BadModel for a scaling that is not known."""
    theta = get_number_or(header, "rope.freq_base", 10_000.0)
    base: dict[str, Any] = {"rope_theta": theta}
    told = {key.removeprefix(f"{header.architecture}.rope.scaling."): value for key, value in header.metadata.items()}
    # llama.cpp: the type is linear where only a factor is given; `scale_linear` is the key of old files
    factor = get_number_or(header, "rope.scaling.factor", get_number_or(header, "rope.scale_linear", 0.0)) or 1.0
    scaling = str(told.get("type", "linear"))
    if factors is not None:
        if scaling == "yarn" or (scaling == "linear" and factor != 1.0):
            raise BadModel(
                f"the GGUF file scales its rotary embedding twice: by {ROPE_FACTORS_TENSOR} and by {scaling}"
            )
        return base | _of_factors(factors, theta=theta, head_dim=head_dim)
    if scaling == "none" or (scaling == "linear" and factor == 1.0):
        return base | {"rope_type": "default"}
    if scaling == "linear":
        return base | {"rope_type": "linear", "factor": factor}
    if scaling == "yarn":
        original = int(
            get_number_or(header, "rope.scaling.original_context_length", header.get_number("context_length"))
        )
        attention = get_number_or(header, "rope.scaling.attn_factor", 1.0) * (1.0 + 0.1 * math.log(factor))
        found = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        betas = {
            f"beta_{name}": get_number_or(header, f"rope.scaling.yarn_beta_{name}", default)
            for name, default in (("fast", 32.0), ("slow", 1.0))
        }
        return base | found | betas | {"attention_factor": attention}
    raise BadModel(
        f"this GGUF file scales its rotary embedding by '{scaling}', which cannot be rebuilt; give the model as a "
        "safetensors folder"
    )


def _of_factors(factors: NDArray[np.float32], *, theta: float, head_dim: int) -> dict[str, Any]:
    if factors.shape != (head_dim // 2,) or not np.isfinite(factors).all() or (factors <= 0).any():
        raise BadModel(
            f"the tensor {ROPE_FACTORS_TENSOR} does not hold one factor for each of {head_dim // 2} frequencies"
        )
    if np.all(factors == 1):
        return {"rope_type": "default"}
    largest = float(factors.max())
    for low, high, original in _LLAMA3:
        made = _llama3_factors(theta, head_dim, factor=largest, low=low, high=high, original=original)
        if np.allclose(made, factors, rtol=_TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": largest,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise BadModel(
        f"the tensor {ROPE_FACTORS_TENSOR} does not hold the factors of a Llama 3 rotary embedding, "
        f"and others cannot be rebuilt; "
        "give the model as a safetensors folder"
    )


def _llama3_factors(
    theta: float, head_dim: int, *, factor: float, low: float, high: float, original: int
) -> NDArray[np.float64]:
    """Return what each frequency is divided by.

    Source: Llama 3.1's rope scaling: wavelengths up to original / high stay, those from original / low on are
    stretched by `factor`, those in between by a mean of both, weighted by where they lie.
    """
    frequency_F = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    wavelength_F = 2 * np.pi / frequency_F
    smooth_F = np.clip((original / wavelength_F - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1 - smooth_F) / factor + smooth_F))
