"""Read a GGUF file back with SOUL's own reader, and compare it with the checkpoint it was made from."""

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

#: Bound of an 8-bit weight: half a step of its block, the rounding of the block's 16-bit scale times the largest
#: number, and the last bits of float32.
_HALF_STEP, _LARGEST, _SLACK = 0.5, 127, 1e-6


@dataclass(frozen=True)
class GgufDifference:
    """The difference between the weights in the file and the checkpoint's.

    Attributes:
        max_error: Largest absolute difference.
        relative_error: Norm of the difference over the norm of the weights.
    """

    max_error: float
    relative_error: float


def verify_gguf(path: Path, model: PreTrainedModel, tokenizer: GgufTokenizer, *, kind: str) -> GgufDifference:
    """Read the file and compare it with the model: metadata of the tokenizer, names, shapes and every number.

    16-bit tensors must equal the checkpoint's rounded to nearest; 8-bit ones must be within half a step of their block.
    Raises EngineError with the first difference, which is a bug of SOUL: such a file must not be a result.
    """
    header = read_gguf_header(path)
    _compare_tokenizer(header, tokenizer)
    infos = {info.name: info for info in header.tensors}
    largest, squares, total = 0.0, 0.0, 0.0
    for tensor in iter_gguf_tensors(model, kind):
        info = infos.pop(tensor.name, None)
        if info is None or info.shape != tensor.values.shape or info.ggml_type != tensor.tensor_type:
            raise _make_error(f"{tensor.name} is missing or has another shape or type")
        values = _read_values(path, info)
        _require_bound(tensor.name, tensor.values, values, info.ggml_type)
        difference = (values - tensor.values).astype(np.float64)
        largest = max(largest, float(np.abs(difference).max(initial=0.0)))
        squares += float(np.square(difference).sum())
        total += float(np.square(tensor.values.astype(np.float64)).sum())
    if infos:
        raise _make_error(f"it has other tensors: {', '.join(sorted(infos)[:5])}")
    return GgufDifference(largest, (squares / total) ** 0.5 if total else 0.0)


def _compare_tokenizer(header: GgufHeader, tokenizer: GgufTokenizer) -> None:
    metadata = {key.removeprefix("tokenizer."): value for key, value in header.metadata.items()}
    expected: dict[str, Any] = {
        "ggml.pre": tokenizer.pre_tokenizer,
        "ggml.tokens": list(tokenizer.tokens),
        "ggml.merges": list(tokenizer.merges),
        "ggml.token_type": list(tokenizer.token_types),
        "ggml.add_bos_token": tokenizer.add_bos,
        "chat_template": tokenizer.chat_template,
    }
    for key, value in expected.items():
        actual = metadata.get(key)
        if (list(actual) if isinstance(value, list) and actual is not None else actual) != value:
            raise _make_error(f"tokenizer.{key} is not what was written")


def _read_values(path: Path, info: TensorInfo) -> NDArray[np.float32]:
    raw = np.fromfile(path, dtype=np.uint8, count=info.size_bytes, offset=info.file_offset)
    rows = raw.reshape(*info.shape[:-1], -1)
    return quants.dequantize(rows, info.ggml_type).astype(np.float32, copy=False).reshape(info.shape)


def _require_bound(
    name: str, expected: NDArray[np.float32], actual: NDArray[np.float32], kind: GGMLQuantizationType
) -> None:
    if kind == GGMLQuantizationType.Q8_0:
        blocks = np.abs(expected.reshape(-1, BLOCK_SIZE).astype(np.float64))
        step = blocks.max(axis=1, keepdims=True) / _LARGEST
        bound = _HALF_STEP * step + _LARGEST * np.abs(step.astype(np.float16).astype(np.float64) - step)
        is_close = np.abs(actual.reshape(-1, BLOCK_SIZE) - expected.reshape(-1, BLOCK_SIZE)) <= bound + _SLACK * step
    else:
        rounded = expected.astype(np.float16).astype(np.float32) if kind == GGMLQuantizationType.F16 else expected
        is_close = actual == rounded
    if not is_close.all():
        raise _make_error(f"{int((~is_close).sum())} numbers of {name} are not the rounded weights")


def _make_error(difference: str) -> EngineError:
    return EngineError(f"the GGUF file differs from the checkpoint: {difference}; report this bug of SOUL")
