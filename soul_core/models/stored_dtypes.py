"""Which dtype each tensor has in a model's files, from their headers alone. Torch-free."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from soul_core.models.gguf_header import read_gguf_header

#: safetensors' short names -> the names torch and the spec use. Others (F8_E4M3, ...) become float8, int8, ...
_NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMES |= {f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)} | {
    f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)
}
_FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})


def read_stored_dtypes(path: Path) -> dict[str, str]:
    """Return tensor name -> dtype of a folder's safetensors, or of a GGUF file's tensors (`q4_1`, ... where quantized).

    The files were inspected before: a header that cannot be read raises whatever reading raises.
    """
    return {name: dtype for name, dtype, _ in _tensors(path)}


def count_parameters_by_dtype(path: Path) -> dict[str, int]:
    """Return dtype -> number of weights stored in it."""
    counts: Counter[str] = Counter()
    for _, dtype, count in _tensors(path):
        counts[dtype] += count
    return dict(sorted(counts.items()))


def read_gguf_dtype(path: Path) -> str:
    """Return the one dtype that stands for a GGUF file: that of its matrices, which may be a quantization.

    Vectors are float32 in any GGUF file and say nothing.
    """
    matrices = {_gguf_name(place.ggml_type.name) for place in read_gguf_header(path).tensors if len(place.shape) > 1}
    quantized = sorted(matrices - _FLOATS)
    widest = next((dtype for dtype in ("float64", "float32", "bfloat16", "float16") if dtype in matrices), "float32")
    return quantized[0] if quantized else widest


def _tensors(path: Path) -> Iterator[tuple[str, str, int]]:
    if path.is_file():
        for place in read_gguf_header(path).tensors:
            yield place.name, _gguf_name(place.ggml_type.name), math.prod(place.shape)
        return
    for shard in list_weight_files(path):
        for name, entry in _safetensors_header(shard).items():
            if name != "__metadata__":
                yield name, _NAMES.get(entry["dtype"], _plain(entry["dtype"])), math.prod(entry["shape"])


def list_weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that loading reads: those of the index, or the only one."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_bytes())["weight_map"].values()))]
    return [folder / "model.safetensors"]


def _safetensors_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        content: dict[str, Any] = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return content


def _plain(dtype: str) -> str:
    return f"float8_{dtype[3:].lower()}" if dtype.startswith("F8_") else dtype.lower()


def _gguf_name(kind: str) -> str:
    return _NAMES.get(kind, kind.lower())
