"""The safetensors files of a folder: which ones are read, what they hold, and that they are whole. Torch-free."""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from soul_core.errors import BadModel
from soul_core.models.json_files import read_json_object

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MAX_LISTED_NAMES = 20
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32}
_BITS |= {"U16": 16, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8}
_MAX_HEADER_BYTES = 100 << 20
#: Mistral publishes its weights a second time under its own names; transformers never reads that copy.
_SECOND_COPY = re.compile(r"consolidated.*\.safetensors")

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """What loading reads: each tensor's file and shape."""

    file_by_tensor: Mapping[str, str]  # tensor -> file name
    shapes: Mapping[str, Shape]

    @property
    def num_parameters(self) -> int:
        """Numbers stored; a tied matrix stored twice counts twice."""
        return sum(map(math.prod, self.shapes.values()))


def read_weight_files(folder: Path) -> WeightFiles:
    """Read the headers of all weight files. Raises BadModel for what is damaged, contradicts itself or is ambiguous."""
    named = _named_by_index(folder)
    files = sorted({*named.values()}) if named else [WEIGHTS_FILE]
    shapes_of = {name: read_safetensors_header(folder / name) for name in files}
    file_of: dict[str, str] = {}
    for name, shapes in shapes_of.items():
        if twice := sorted(file_of.keys() & shapes.keys()):
            raise BadModel(
                f"{name} holds tensors that {file_of[twice[0]]} holds too, and only one of each can be right; remove "
                "the file that does not belong to the model",
                details=truncate_names(twice),
            )
        file_of |= dict.fromkeys(shapes, name)
    if named:
        _check_index(named, file_of)
    shapes = {tensor: shape for one in shapes_of.values() for tensor, shape in one.items()}
    _refuse_other_files(folder, files, shapes)
    return WeightFiles(file_of, shapes)


def truncate_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first names, and how many more there are."""
    names = list(names)
    more = len(names) - MAX_LISTED_NAMES
    return (*names[:MAX_LISTED_NAMES], *([f"and {more} more"] if more > 0 else []))


def _named_by_index(folder: Path) -> dict[str, str]:
    """Return tensor -> file as the index has it; empty where one file holds everything."""
    index = read_json_object(folder, INDEX_FILE)
    whole = (folder / WEIGHTS_FILE).is_file()
    if index is None:
        if not whole:
            raise BadModel(f"the folder has no {WEIGHTS_FILE}; save the model as safetensors")
        return {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadModel(f"{INDEX_FILE} has no weight_map")
    names = {str(name) for name in weight_map.values()}
    if strange := sorted(name for name in names if Path(name).name != name or not name.endswith(".safetensors")):
        raise BadModel(f"{INDEX_FILE} points outside the folder", details=truncate_names(strange))
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise BadModel("weight files are missing", details=truncate_names(missing))
    if whole and names != {WEIGHTS_FILE}:
        raise BadModel(
            f"the folder holds the weights twice: {WEIGHTS_FILE}, and the files that {INDEX_FILE} "
            f"names; libraries differ in which "
            "they read, so remove one of the two",
            details=truncate_names(sorted(names)),
        )
    return {str(tensor): str(name) for tensor, name in weight_map.items()}


def _check_index(named: Mapping[str, str], file_of: Mapping[str, str]) -> None:
    lost = sorted(tensor for tensor, name in named.items() if file_of.get(tensor) != name)
    if lost:
        raise BadModel(f"{named[lost[0]]} lacks tensors its index promises", details=truncate_names(lost))
    if unnamed := sorted(file_of.keys() - named.keys()):
        raise BadModel(
            f"the weight files hold tensors that {INDEX_FILE} does not name; save the model again, "
            f"or remove the files that "
            "do not belong to it",
            details=truncate_names(f"{tensor} ({file_of[tensor]})" for tensor in unnamed),
        )


def _refuse_other_files(folder: Path, files: list[str], shapes: Mapping[str, Shape]) -> None:
    """Refuse weight files that nothing reads, but for further copies of the model (model.fp16.safetensors)."""
    for path in sorted(folder.glob("*.safetensors")):
        if path.name in files or not path.is_file() or _SECOND_COPY.fullmatch(path.name):
            continue
        own = read_safetensors_header(path)
        if own.items() <= shapes.items():
            continue
        what = "merge the adapter into the model" if "adapter" in path.name else "it belongs to another model or part"
        raise BadModel(
            f"{path.name} lies beside the weights and is not read ({', '.join(files[:3])} is): {what}, or remove it",
            details=truncate_names(sorted(tensor for tensor in own if own[tensor] != shapes.get(tensor))),
        )


def read_safetensors_header(path: Path) -> dict[str, Shape]:
    """Return tensor -> shape. Raises BadModel unless the header fits the file's size and itself."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER_BYTES):
            raise BadModel(f"{path.name} is cut off or no safetensors file: its header does not fit in {size:,} bytes")
        content = file.read(length)
    try:
        header: dict[str, Any] = json.loads(content)
        tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
        spans = sorted(tuple(entry["data_offsets"]) for entry in tensors.values())
        counts = {name: math.prod(entry["shape"]) for name, entry in tensors.items()}
        bits = {name: _BITS[entry["dtype"]] for name, entry in tensors.items()}
        sizes = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in tensors.items()}
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise BadModel(f"{path.name} has a header that is not a safetensors header") from error
    promised = 8 + length + (spans[-1][1] if spans else 0)
    if promised != size:
        what = "is cut off" if promised > size else "is longer than its header says"
        raise BadModel(f"{path.name} {what}: {size:,} bytes, its header promises {promised:,}")
    adjacent = all(left[1] == right[0] for left, right in zip([(0, 0), *spans], spans, strict=False))
    if not adjacent or any(counts[name] * bits[name] != 8 * sizes[name] for name in tensors):
        raise BadModel(f"{path.name} has a header that contradicts itself")
    return {name: tuple(entry["shape"]) for name, entry in tensors.items()}
