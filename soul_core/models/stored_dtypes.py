"""The dtype of each tensor in a model's files, from their headers alone. Torch-free."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from soul_core.models.gguf_header import read_gguf_header
from soul_core.models.weight_files import INDEX_FILE, WEIGHTS_FILE, read_safetensors_header

_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
#: safetensors' and GGUF's prefixes -> the names that torch and the spec use.
_PREFIXES = {"BF": "bfloat", "F": "float", "I": "int", "U": "uint", "C": "complex"}


def read_stored_dtypes(path: Path) -> dict[str, str]:
    """Return tensor name -> dtype of a folder's safetensors, or of a GGUF file's tensors (`q4_1`, ... if quantized).

    Raises BadModel for damaged files.
    """
    return {name: dtype for name, dtype, _ in _list_tensors(path)}


def count_parameters_by_dtype(path: Path) -> dict[str, int]:
    """Return dtype -> number of weights stored in it."""
    counts: Counter[str] = Counter()
    for _, dtype, num_weights in _list_tensors(path):
        counts[dtype] += num_weights
    return dict(sorted(counts.items()))


def read_gguf_dtype(path: Path) -> str:
    """Return the dtype of a GGUF file's matrices, which may be a quantization. Its vectors are float32 in any case."""
    tensors = read_gguf_header(path).tensors
    dtypes = {_translate_dtype(tensor.ggml_type.name) for tensor in tensors if len(tensor.shape) > 1}
    quantized = sorted(dtypes - _FLOATS)
    widest = next((dtype for dtype in ("float64", "float32", "bfloat16", "float16") if dtype in dtypes), "float32")
    return quantized[0] if quantized else widest


def list_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that loading reads: those of the index, or the only one."""
    index = folder / INDEX_FILE
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    return [folder / WEIGHTS_FILE]


def _list_tensors(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield name, dtype and number of weights of each tensor."""
    if path.is_file():
        for tensor in read_gguf_header(path).tensors:
            yield tensor.name, _translate_dtype(tensor.ggml_type.name), math.prod(tensor.shape)
        return
    for file in list_weight_files(path):
        for name, stored in read_safetensors_header(file).items():
            yield name, _translate_dtype(stored.dtype), math.prod(stored.shape)


def _translate_dtype(name: str) -> str:
    """Return the lower-case long name: BF16 -> bfloat16, F8_E4M3 -> float8_e4m3, BOOL -> bool, Q4_1 -> q4_1."""
    match = re.fullmatch(r"(BF|F|I|U|C)(\d+)(_\w+)?", name)
    return f"{_PREFIXES[match[1]]}{match[2]}{(match[3] or '').lower()}" if match else name.lower()
