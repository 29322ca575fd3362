"""Rotary position embeddings of a GGUF file as transformers' `rope_parameters`. Torch-free.

Source: llama.cpp's `rope.*` keys and their defaults (base 10000, scaling factor 1). The factors of Llama 3.1 and later
are stored in the tensor `rope_freqs.weight`; llama.cpp divides each frequency by its factor.

Shapes: F rotary frequencies, half the size of a head.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from soul_core.errors import BadModel
from soul_core.models.gguf_defaults import get_number_or
from soul_core.models.gguf_header import GgufHeader

ROPE_FACTORS_TENSOR = "rope_freqs.weight"
#: (low_freq_factor, high_freq_factor, original_max_position_embeddings) of published models.
_LLAMA3 = ((1.0, 4.0, 8192), (1.0, 4.0, 4096), (1.0, 4.0, 2048))
_TOLERANCE = 1e-4


def make_rope_parameters(header: GgufHeader, factors: NDArray[np.float32] | None, *, head_dim: int) -> dict[str, Any]:
    """Return the parameters.

    Args:
        factors: The tensor `rope_freqs.weight` (F), if the file has it.

    Raises:
        BadModel: The scaling is not one that transformers can reproduce.
    """
    theta = get_number_or(header, "rope.freq_base", 10_000.0)
    base: dict[str, Any] = {"rope_theta": theta}
    metadata = {
        key.removeprefix(f"{header.architecture}.rope.scaling."): value for key, value in header.metadata.items()
    }
    # llama.cpp: the type is linear if only a factor is given; `scale_linear` is the key of old files
    factor = get_number_or(header, "rope.scaling.factor", get_number_or(header, "rope.scale_linear", 0.0)) or 1.0
    scaling = str(metadata.get("type", "linear"))
    if factors is not None:
        if scaling == "yarn" or (scaling == "linear" and factor != 1.0):
            raise BadModel(
                f"the GGUF file scales its rotary embedding twice, by {ROPE_FACTORS_TENSOR} and by {scaling}; give the "
                "model as a safetensors folder"
            )
        return base | _identify_factors(factors, theta=theta, head_dim=head_dim)
    if scaling == "none" or (scaling == "linear" and factor == 1.0):
        return base | {"rope_type": "default"}
    if scaling == "linear":
        return base | {"rope_type": "linear", "factor": factor}
    if scaling == "yarn":
        original = int(
            get_number_or(header, "rope.scaling.original_context_length", header.get_number("context_length"))
        )
        attention = get_number_or(header, "rope.scaling.attn_factor", 1.0) * (1.0 + 0.1 * math.log(factor))
        yarn = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original}
        betas = {
            f"beta_{name}": get_number_or(header, f"rope.scaling.yarn_beta_{name}", default)
            for name, default in (("fast", 32.0), ("slow", 1.0))
        }
        return base | yarn | betas | {"attention_factor": attention}
    raise BadModel(
        f"this GGUF file scales its rotary embedding by '{scaling}', which cannot be converted; give the model as a "
        "safetensors folder"
    )


def _identify_factors(factors: NDArray[np.float32], *, theta: float, head_dim: int) -> dict[str, Any]:
    if factors.shape != (head_dim // 2,) or not np.isfinite(factors).all() or (factors <= 0).any():
        raise BadModel(
            f"the tensor {ROPE_FACTORS_TENSOR} does not hold one positive factor for each of {head_dim // 2} "
            "frequencies; convert the model again"
        )
    if np.all(factors == 1):
        return {"rope_type": "default"}
    largest = float(factors.max())
    for low, high, original in _LLAMA3:
        expected_F = _compute_llama3_factors(theta, head_dim, factor=largest, low=low, high=high, original=original)
        if np.allclose(expected_F, factors, rtol=_TOLERANCE):
            return {
                "rope_type": "llama3",
                "factor": largest,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }
    raise BadModel(
        f"the tensor {ROPE_FACTORS_TENSOR} does not hold the factors of a Llama 3 rotary embedding, and others cannot "
        "be converted; give the model as a safetensors folder"
    )


def _compute_llama3_factors(
    theta: float, head_dim: int, *, factor: float, low: float, high: float, original: int
) -> NDArray[np.float64]:
    """Return the divisor of each frequency, (F).

    Source: Llama 3.1's rope scaling: wavelengths up to original / high stay, those from original / low on are
    stretched by `factor`, and those between by an interpolation of both.
    """
    frequency_F = 1.0 / theta ** (np.arange(0, head_dim, 2) / head_dim)
    wavelength_F = 2 * np.pi / frequency_F
    smooth_F = np.clip((original / wavelength_F - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1 - smooth_F) / factor + smooth_F))
