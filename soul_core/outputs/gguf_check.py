"""A GGUF file read back by SOUL's own reader, and compared with the checkpoint it was made of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, quants
from numpy.typing import NDArray
from transformers import PreTrainedModel

from soul_core.errors import EngineError
from soul_core.models.gguf_header import GgufHeader, TensorInfo, read_gguf_header
from soul_core.outputs.gguf_file import BLOCK_SIZE, iter_gguf_tensors
from soul_core.outputs.gguf_tokenizer import GgufTokenizer

#: Half a step of a block, the rounding of its 16-bit scale times the largest number, and float32's own last bits.
_HALF_STEP, _LARGEST, _SLACK = 0.5, 127, 1e-6


@dataclass(frozen=True)
class GgufDifference:
    """By how much the file's weights differ from the checkpoint's.

    Attributes:
        max_error: Largest absolute difference.
        relative_error: Norm of the difference over the norm of the weights.
    """

    max_error: float
    relative_error: float


def verify_gguf(path: Path, model: PreTrainedModel, tokenizer: GgufTokenizer, *, kind: str) -> GgufDifference:
    """Read the file and compare it with the model: metadata of the tokenizer, names, shapes and every number.

    16-bit tensors must be the checkpoint's rounded to nearest; 8-bit ones within half a step of their block.
    Raises EngineError naming what differs: it is a fault of SOUL, and no such file is left as a result.
    """
    header = read_gguf_header(path)
    _compare_tokenizer(header, tokenizer)
    places = {place.name: place for place in header.tensors}
    largest, squares, total = 0.0, 0.0, 0.0
    for tensor in iter_gguf_tensors(model, kind):
        place = places.pop(tensor.name, None)
        if place is None or place.shape != tensor.values.shape or place.ggml_type != tensor.tensor_type:
            raise _differs(f"{tensor.name} is missing or has another shape or type")
        found = _numbers(path, place)
        _require_bound(tensor.name, tensor.values, found, place.ggml_type)
        difference = (found - tensor.values).astype(np.float64)
        largest = max(largest, float(np.abs(difference).max(initial=0.0)))
        squares += float(np.square(difference).sum())
        total += float(np.square(tensor.values.astype(np.float64)).sum())
    if places:
        raise _differs(f"it has tensors of no use: {', '.join(sorted(places)[:5])}")
    return GgufDifference(largest, (squares / total) ** 0.5 if total else 0.0)


def _compare_tokenizer(header: GgufHeader, tokenizer: GgufTokenizer) -> None:
    told = {key.removeprefix("tokenizer."): value for key, value in header.metadata.items()}
    wanted: dict[str, Any] = {
        "ggml.pre": tokenizer.pre_tokenizer,
        "ggml.tokens": list(tokenizer.tokens),
        "ggml.merges": list(tokenizer.merges),
        "ggml.token_type": list(tokenizer.token_types),
        "ggml.add_bos_token": tokenizer.add_bos,
        "chat_template": tokenizer.chat_template,
    }
    for key, value in wanted.items():
        found = told.get(key)
        if (list(found) if isinstance(value, list) and found is not None else found) != value:
            raise _differs(f"tokenizer.{key} is not what was written")


def _numbers(path: Path, place: TensorInfo) -> NDArray[np.float32]:
    raw = np.fromfile(path, dtype=np.uint8, count=place.size_bytes, offset=place.file_offset)
    rows = raw.reshape(*place.shape[:-1], -1)
    return quants.dequantize(rows, place.ggml_type).astype(np.float32, copy=False).reshape(place.shape)


def _require_bound(
    name: str, values: NDArray[np.float32], found: NDArray[np.float32], kind: GGMLQuantizationType
) -> None:
    if kind == GGMLQuantizationType.Q8_0:
        blocks = np.abs(values.reshape(-1, BLOCK_SIZE).astype(np.float64))
        step = blocks.max(axis=1, keepdims=True) / _LARGEST
        bound = _HALF_STEP * step + _LARGEST * np.abs(step.astype(np.float16).astype(np.float64) - step)
        close = np.abs(found.reshape(-1, BLOCK_SIZE) - values.reshape(-1, BLOCK_SIZE)) <= bound + _SLACK * step
    else:
        exact = values.astype(np.float16).astype(np.float32) if kind == GGMLQuantizationType.F16 else values
        close = found == exact
    if not close.all():
        raise _differs(f"{int((~close).sum())} numbers of {name} are not the rounded weights")


def _differs(what: str) -> EngineError:
    return EngineError(f"the GGUF file that was written is not the checkpoint: {what}; this is a fault of SOUL")
