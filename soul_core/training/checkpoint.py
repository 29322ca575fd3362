"""Checkpoints of a run in progress: enough to resume bit for bit.

A checkpoint is written and synced as `step-000010.partial`, its manifest last, and then renamed. Older checkpoints are
removed after that, so a kill between any two writes leaves at least one complete checkpoint.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file

from soul_core.atomic_io import fsync_path, translate_disk_errors, write_atomically
from soul_core.errors import BadSpec

#: Raised when the content of `state.json` changes its form.
FORMAT = 2

_FOLDER_PATTERN = f"step-{'[0-9]' * 9}"
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


class Stateful(Protocol):
    """A part of a run that a checkpoint saves.

    A state consists of tensors, plain JSON values, and lists and dicts of them.
    """

    def state_dict(self) -> dict[str, Any]:
        """Return the state. Tensors may be the part's own."""

    def load_state_dict(self, state_dict: dict[str, Any], /) -> None:
        """Restore a state that `state_dict` returned in a run of the same spec."""


class StatefulGenerator:
    """A random generator on the CPU that a checkpoint can save."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return the generator's state."""
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the sequence of a saved generator."""
        self.generator.set_state(state_dict["generator"].cpu())


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: the number of steps taken, and the state of each part by its name."""

    step: int
    states: dict[str, Any]


def save_checkpoint(folder: Path, step: int, states: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the checkpoint of `step` and remove older ones. A step that has a checkpoint keeps it.

    Raises:
        DiskFull: The previous checkpoint stays.
    """
    target = folder / f"step-{step:09d}"
    if _is_complete(target):
        return  # replacing the only complete checkpoint could leave none
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    tensors: dict[str, torch.Tensor] = {}
    content = json.dumps(_extract_tensors(states, "", tensors)).encode()
    try:
        with translate_disk_errors("a checkpoint of the run"):
            partial.mkdir(parents=True)
            save_file(_copy_to_host(tensors), partial / _TENSORS)
            fsync_path(partial / _TENSORS)
            write_atomically(partial / _STATE, content)
            sizes = {name: (partial / name).stat().st_size for name in (_TENSORS, _STATE)}
            digest = hashlib.sha256(content).hexdigest()
            manifest = {"format": FORMAT, "step": step, "sizes": sizes, "state_sha256": digest}
            write_atomically(partial / _MANIFEST, json.dumps(manifest))
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
            fsync_path(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for other in folder.glob("step-*"):
        if other != target:
            shutil.rmtree(other)


def load_newest_checkpoint(folder: Path, device: torch.device) -> Checkpoint | None:
    """Return the newest complete checkpoint, its tensors on `device`, or None.

    Raises:
        BadSpec: Another version of SOUL wrote it.
    """
    for path in sorted(folder.glob(_FOLDER_PATTERN), reverse=True):
        if not _is_complete(path):
            continue
        manifest = json.loads((path / _MANIFEST).read_text())
        if manifest.get("format") != FORMAT:
            raise BadSpec(
                f"the state folder holds a checkpoint of another version of SOUL ({path.name}); resume the run with "
                "that version, or remove the folder to start again from the base model"
            )
        tensors = load_file(path / _TENSORS, device=str(device))
        return Checkpoint(manifest["step"], _insert_tensors(json.loads((path / _STATE).read_text()), tensors))
    return None


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], description: str) -> None:
    """Write one file of tensors, complete or not at all. Raises DiskFull, which names `description`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with translate_disk_errors(description):
        save_file(_copy_to_host(tensors), partial)
        fsync_path(partial)
        partial.replace(path)


def _copy_to_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _is_complete(path: Path) -> bool:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        sizes_match = all((path / name).stat().st_size == size for name, size in manifest["sizes"].items())
        return sizes_match and hashlib.sha256((path / _STATE).read_bytes()).hexdigest() == manifest["state_sha256"]
    except (OSError, ValueError, KeyError):
        return False


def _extract_tensors(value: Any, name: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Move the tensors of a nested value to `tensors`; return the rest as JSON that refers to them by name.

    A dict becomes a list of pairs, because JSON has no keys that are numbers, as an optimizer's state has.
    """
    if isinstance(value, torch.Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        items = [[key, _extract_tensors(part, f"{name}.{key}".lstrip("."), tensors)] for key, part in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        return [_extract_tensors(part, f"{name}.{index}", tensors) for index, part in enumerate(value)]
    return value


def _insert_tensors(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Undo `_extract_tensors`; tuples come back as lists."""
    if isinstance(value, list):
        return [_insert_tensors(part, tensors) for part in value]
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    return {key: _insert_tensors(part, tensors) for key, part in value["dict"]}
