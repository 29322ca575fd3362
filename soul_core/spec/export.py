"""What a run writes when it ends: the dtype of the weights, and a GGUF file in addition. Torch-free."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from soul_core.spec.terms import SpecModel

#: Bytes of one weight in each dtype that can be written.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

#: transformers' class -> llama.cpp's name of the architecture, of those that can be written as GGUF.
GGUF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
#: Bytes of one weight: a block of 32 eight-bit numbers has a scale of two bytes.
_BYTES_OF_GGUF = {"none": 0.0, "f16": 2.0, "q8_0": 34 / 32}


class Export(SpecModel):
    """What is written: the measured model is the exported one, so weights are rounded before they are measured."""

    dtype: Literal["base", "float32", "bfloat16", "float16"] = Field(
        "base",
        description="Type of the exported weights. base: as the base model's files have them, tensor by tensor (a "
        "quantized GGUF: float16). The weights are rounded to it before `after` is measured and attacked. Rounding may "
        "undo small changes: the report says which share of the changed weights still differs.",
    )
    gguf: Literal["none", "f16", "q8_0"] = Field(
        "none",
        description="A GGUF file in addition, for llama.cpp: 16-bit floats, or 8-bit blocks. For Llama, Mistral, Qwen2 "
        "and Qwen3 with a byte-level BPE tokenizer; it is read back and compared with the checkpoint.",
    )


def get_export_dtype(wanted: str, stored: str) -> str:
    """Return the dtype a tensor is written in, of the dtype (or GGUF quantization) it has in the base's files.

    Weights are float32 while they are trained, so float64 becomes float32. Nothing is rounded to fewer than 16 bits:
    8-bit floats become bfloat16, what GGUF quantizes float16, which has three more bits of precision.
    """
    if wanted != "base":
        return wanted
    if stored in DTYPE_BYTES:
        return stored
    if stored == "float64":
        return "float32"
    return "bfloat16" if stored.startswith(("float8", "int", "uint", "bool")) else "float16"


def count_export_parameters(export: Export, stored: Mapping[str, int]) -> dict[str, int]:
    """Return dtype -> number of weights of the exported files, of those of the base's files."""
    counts: dict[str, int] = {}
    for dtype, count in stored.items():
        written = get_export_dtype(export.dtype, dtype)
        counts[written] = counts.get(written, 0) + count
    return counts


def compute_output_bytes(export: Export, stored: Mapping[str, int], *, num_parameters: int) -> int:
    """Return the size of the exported weights.

    Args:
        export: What is to be written.
        stored: Dtype in the base's files -> number of weights; empty: not known, then float32 is assumed.
        num_parameters: Number of weights of the model.
    """
    counts = stored or {"float32": num_parameters}
    weights = sum(DTYPE_BYTES[dtype] * count for dtype, count in count_export_parameters(export, counts).items())
    return weights + compute_gguf_bytes(export, sum(counts.values()))


def compute_gguf_bytes(export: Export, num_parameters: int) -> int:
    """Return the size of the GGUF file, where one is wanted."""
    return round(_BYTES_OF_GGUF[export.gguf] * num_parameters)
