"""The safetensors files of a folder: which files loading reads, what they hold, and whether they are complete.

Torch-free.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from soul_core.errors import BadModel
from soul_core.models.json_files import read_json_object

WEIGHTS_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
MAX_LISTED_NAMES = 20
#: Mistral publishes its weights a second time under its own names; transformers never reads that copy.
_SECOND_COPY = re.compile(r"consolidated.*\.safetensors")

Shape = tuple[int, ...]


class StoredTensor(NamedTuple):
    """The shape and the type of a tensor in a file; the type by safetensors' name, such as BF16."""

    shape: Shape
    dtype: str


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The tensors that loading reads: the file and the shape of each."""

    file_by_tensor: Mapping[str, str]  # tensor -> file name
    shapes: Mapping[str, Shape]

    @property
    def num_parameters(self) -> int:
        """Numbers stored; a tied matrix stored twice counts twice."""
        return sum(map(math.prod, self.shapes.values()))


def read_weight_files(folder: Path) -> WeightFiles:
    """Read the headers of all weight files.

    Raises:
        BadModel: A file is damaged, files contradict each other, or it is not certain which of them are the model's.
    """
    file_by_index = _read_index(folder)
    files = sorted({*file_by_index.values()}) if file_by_index else [WEIGHTS_FILE]
    file_by_tensor: dict[str, str] = {}
    shapes: dict[str, Shape] = {}
    for name in files:
        tensors = read_safetensors_header(folder / name)
        if duplicates := sorted(file_by_tensor.keys() & tensors.keys()):
            raise BadModel(
                f"{name} holds tensors that {file_by_tensor[duplicates[0]]} holds too, and only one of each can be "
                "right; remove the file that does not belong to the model",
                details=truncate_names(duplicates),
            )
        file_by_tensor |= dict.fromkeys(tensors, name)
        shapes |= {tensor: stored.shape for tensor, stored in tensors.items()}
    if file_by_index:
        _check_index(file_by_index, file_by_tensor)
    _refuse_other_files(folder, files, shapes)
    return WeightFiles(file_by_tensor, shapes)


def read_safetensors_header(path: Path) -> dict[str, StoredTensor]:
    """Return tensor -> shape and type. No weights are read.

    Raises:
        BadModel: The file is incomplete, or its header is too large (more than 100 MB), no header, or inconsistent.
    """
    try:
        with safe_open(path, framework="np") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
            return {name: StoredTensor(tuple(part.get_shape()), part.get_dtype()) for name, part in slices.items()}
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        if re.search(r"header too small|header too large|invalid header length", reason):
            problem = "is cut off, or is not a safetensors file"
        elif "not fully covered" in reason:
            problem = "is cut off, or longer than its header says"
        else:
            problem = "is damaged: its header is not a valid safetensors header"
        raise BadModel(f"{path.name} {problem} ({reason}); download or save it again") from error


def truncate_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the first names, and how many more there are."""
    names = list(names)
    num_more = len(names) - MAX_LISTED_NAMES
    return (*names[:MAX_LISTED_NAMES], *([f"and {num_more} more"] if num_more > 0 else []))


def _read_index(folder: Path) -> dict[str, str]:
    """Return tensor -> file name by the index file; empty where one file holds everything."""
    index = read_json_object(folder, INDEX_FILE)
    has_weights_file = (folder / WEIGHTS_FILE).is_file()
    if index is None:
        if not has_weights_file:
            raise BadModel(f"the folder has no {WEIGHTS_FILE}; save the model as safetensors")
        return {}
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise BadModel(f"{INDEX_FILE} has no weight_map; save the model again")
    names = {str(name) for name in weight_map.values()}
    if outside := sorted(name for name in names if Path(name).name != name or not name.endswith(".safetensors")):
        raise BadModel(
            f"{INDEX_FILE} points outside the folder; correct its weight_map", details=truncate_names(outside)
        )
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise BadModel(
            f"weight files that {INDEX_FILE} names are missing; download or save the model again",
            details=truncate_names(missing),
        )
    if has_weights_file and names != {WEIGHTS_FILE}:
        raise BadModel(
            f"the folder holds the weights twice: {WEIGHTS_FILE}, and the files that {INDEX_FILE} names; libraries "
            "differ in which they read, so remove one of the two",
            details=truncate_names(sorted(names)),
        )
    return {str(tensor): str(name) for tensor, name in weight_map.items()}


def _check_index(file_by_index: Mapping[str, str], file_by_tensor: Mapping[str, str]) -> None:
    """Raise BadModel unless the index names exactly the tensors that the files hold."""
    if missing := sorted(tensor for tensor, name in file_by_index.items() if file_by_tensor.get(tensor) != name):
        raise BadModel(
            f"{file_by_index[missing[0]]} lacks tensors that {INDEX_FILE} lists; download or save the model again",
            details=truncate_names(missing),
        )
    if unlisted := sorted(file_by_tensor.keys() - file_by_index.keys()):
        raise BadModel(
            f"the weight files hold tensors that {INDEX_FILE} does not name; save the model again, or remove the files "
            "that do not belong to it",
            details=truncate_names(f"{tensor} ({file_by_tensor[tensor]})" for tensor in unlisted),
        )


def _refuse_other_files(folder: Path, files: list[str], shapes: Mapping[str, Shape]) -> None:
    """Raise BadModel for a weight file that is not read, except copies of the model such as model.fp16.safetensors."""
    for path in sorted(folder.glob("*.safetensors")):
        if path.name in files or not path.is_file() or _SECOND_COPY.fullmatch(path.name):
            continue
        others = {name: stored.shape for name, stored in read_safetensors_header(path).items()}
        if others.items() <= shapes.items():
            continue
        remedy = (
            "merge the adapter into the model, or remove the file"
            if "adapter" in path.name
            else "remove it, it belongs to another model or part"
        )
        raise BadModel(
            f"{path.name} is next to the weights and is not read ({', '.join(files[:3])} is); {remedy}",
            details=truncate_names(sorted(name for name in others if others[name] != shapes.get(name))),
        )
