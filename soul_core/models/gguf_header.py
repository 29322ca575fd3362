"""A GGUF file's header: metadata and where each tensor lies, checked against the file's size. Torch-free.

Source: the GGUF specification, versions 2 and 3 (ggml repository, docs/gguf.md). Unlike `gguf.GGUFReader` it reads a
150,000-entry vocabulary in 0.1 s instead of 3 s, and every count is checked, since uploads are hostile until proven.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from soul_core.errors import BadModel

MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_DIMENSIONS = 4


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies. `shape` is row-major as numpy and torch count it (GGUF writes it the other way round)."""

    name: str
    shape: tuple[int, ...]
    ggml_type: GGMLQuantizationType
    file_offset: int  # byte in the file
    size_bytes: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata by key, and the tensors."""

    metadata: dict[str, Any]
    tensors: tuple[TensorInfo, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(tensor.shape) for tensor in self.tensors)

    def get_number(self, key: str) -> float:
        """Return `<architecture>.<key>`. Raises BadModel when it is absent or no number."""
        value = self.metadata.get(f"{self.architecture}.{key}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadModel(f"the GGUF file does not say {self.architecture}.{key}")
        return value


def read_gguf_header(path: Path) -> GgufHeader:
    """Read the header. Raises BadModel when the file is no GGUF, is cut off or contradicts itself."""
    size = path.stat().st_size
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise BadModel(f"{path.name} is not a GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
            try:
                return _parse(_Cursor(view), size)
            except (struct.error, IndexError, OverflowError, MemoryError) as error:
                raise BadModel(f"{path.name} is cut off or damaged: its header ends too soon") from error
            except UnicodeDecodeError as error:
                raise BadModel(f"{path.name} is damaged: a name in its header is not UTF-8") from error


def _parse(cursor: "_Cursor", size: int) -> GgufHeader:
    version, num_tensors, num_keys = cursor.take("I"), cursor.take("Q"), cursor.take("Q")
    if version not in {2, 3}:
        raise BadModel(f"GGUF version {version} is not supported (2 and 3 are; big-endian files are not)")
    metadata = {cursor.string(): cursor.value(cursor.take("I")) for _ in range(num_keys)}
    if not isinstance(metadata.get("general.architecture"), str):
        raise BadModel("the GGUF file does not say its architecture (general.architecture)")
    places = [cursor.tensor() for _ in range(num_tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise BadModel("the GGUF file's general.alignment is no size")
    data_start = -(-cursor.position // alignment) * alignment
    tensors = []
    for name, shape, kind, offset in places:
        num_bytes = _num_bytes(name, shape, kind)
        if data_start + offset + num_bytes > size:
            raise BadModel(
                f"the GGUF file is cut off: tensor {name} ends at byte {data_start + offset + num_bytes:,}, "
                f"the file at {size:,}"
            )
        tensors.append(TensorInfo(name, shape, GGMLQuantizationType(kind), data_start + offset, num_bytes))
    if not tensors:
        raise BadModel("the GGUF file holds no tensors (a vocabulary only?)")
    return GgufHeader(metadata, tuple(tensors))


def _num_bytes(name: str, shape: tuple[int, ...], kind: int) -> int:
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (KeyError, ValueError) as error:
        raise BadModel(f"GGUF tensor {name} has the unknown type {kind}") from error
    if not shape or shape[-1] % block:
        raise BadModel(f"GGUF tensor {name} has a shape its type cannot have")
    return math.prod(shape) // block * block_bytes


class _Cursor:
    """Takes values off the header, one after another. Little-endian."""

    def __init__(self, view: mmap.mmap) -> None:
        self._view = view
        self.position = len(MAGIC)

    def take(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._view, self.position)
        self.position += struct.calcsize(f"<{code}")
        return value

    def string(self) -> str:
        length = self.take("Q")
        end = self.position + length
        if end > len(self._view):
            raise IndexError
        text = self._view[self.position : end].decode("utf-8")
        self.position = end
        return text

    def value(self, kind: int, *, nested: bool = False) -> Any:
        if kind == _STRING:
            return self.string()
        if kind in _SCALARS:
            return self.take(_SCALARS[kind])
        if kind != _ARRAY or nested:
            raise BadModel(f"the GGUF header holds a value of the unknown type {kind}")
        inner, count = self.take("I"), self.take("Q")
        if count > len(self._view):
            raise IndexError
        if inner in _SCALARS:
            code = f"<{count}{_SCALARS[inner]}"
            values = list(struct.unpack_from(code, self._view, self.position))
            self.position += struct.calcsize(code)
            return values
        return [self.value(inner, nested=True) for _ in range(count)]

    def tensor(self) -> tuple[str, tuple[int, ...], int, int]:
        name, num_dimensions = self.string(), self.take("I")
        if num_dimensions > _MAX_DIMENSIONS:
            raise BadModel(f"GGUF tensor {name} has {num_dimensions} dimensions")
        shape = tuple(self.take("Q") for _ in range(num_dimensions))
        return name, shape[::-1], self.take("I"), self.take("Q")
