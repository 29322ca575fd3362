"""The files that a run writes of the judged model: type of the weights, and a GGUF file. Torch-free."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from soul_core.spec.terms import SpecModel

#: Bytes of one weight in each dtype that can be written.
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

#: Architectures that can be written as GGUF: class in transformers -> name in llama.cpp.
GGUF_ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
#: Bytes of one weight in a GGUF file. A q8_0 block holds 32 eight-bit numbers and a scale of two bytes.
_GGUF_WEIGHT_BYTES = {"none": 0.0, "f16": 2.0, "q8_0": 34 / 32}


class Export(SpecModel):
    """The files of the judged model. Weights are rounded before they are measured: the report describes these files."""

    dtype: Literal["base", "float32", "bfloat16", "float16"] = Field(
        "base",
        description="Type of the exported weights. base: the type in the base model's files, tensor by tensor (a "
        "quantized GGUF: float16). The weights are rounded to it before the model is measured and attacked. Rounding "
        "may undo small changes: the report gives the share of the changed weights that still differs.",
    )
    gguf: Literal["none", "f16", "q8_0"] = Field(
        "none",
        description="Also write a GGUF file for llama.cpp, with 16-bit floats or 8-bit blocks. For Llama, Mistral, "
        "Qwen2 and Qwen3 with a byte-level BPE tokenizer. The file is read back and compared with the checkpoint.",
    )


def get_export_dtype(wanted: str, stored: str) -> str:
    """Return the type in which a tensor is written.

    Weights are trained in float32, so float64 becomes float32. No weight is rounded to fewer than 16 bits: 8-bit
    floats become bfloat16; GGUF's quantized types become float16, which has three more bits of precision.

    Args:
        wanted: `export.dtype` of the spec.
        stored: Type, or GGUF quantization, of the tensor in the base model's files.
    """
    if wanted != "base":
        return wanted
    if stored in DTYPE_BYTES:
        return stored
    if stored == "float64":
        return "float32"
    return "bfloat16" if stored.startswith(("float8", "int", "uint", "bool")) else "float16"


def count_export_parameters(export: Export, stored: Mapping[str, int]) -> dict[str, int]:
    """Return the number of exported weights of each type, given that of each type in the base model's files."""
    counts: dict[str, int] = {}
    for dtype, count in stored.items():
        written = get_export_dtype(export.dtype, dtype)
        counts[written] = counts.get(written, 0) + count
    return counts


def compute_output_bytes(export: Export, stored: Mapping[str, int], *, num_parameters: int) -> int:
    """Return the size of the exported weights.

    Args:
        export: The `export` part of a spec.
        stored: Number of weights of each type in the base model's files; empty if unknown: float32 is assumed.
        num_parameters: Number of weights of the model.
    """
    counts = stored or {"float32": num_parameters}
    weights = sum(DTYPE_BYTES[dtype] * count for dtype, count in count_export_parameters(export, counts).items())
    return weights + compute_gguf_bytes(export, sum(counts.values()))


def compute_gguf_bytes(export: Export, num_parameters: int) -> int:
    """Return the size of the GGUF file; 0 if the spec asks for none."""
    return round(_GGUF_WEIGHT_BYTES[export.gguf] * num_parameters)
