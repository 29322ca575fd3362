"""Checkpoints of a run in progress: enough to go on bit for bit. A folder is one only when its manifest is whole.

`step-000010.partial` is written and synced, the manifest last, then renamed; older ones are removed after that, so a
kill between any two writes leaves at least one good checkpoint.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch.optim import Optimizer

from soul_core.atomic_io import fsync_path, translate_disk_errors, write_atomically

_WHOLE = f"step-{'[0-9]' * 9}"
_TENSORS, _STATE, _MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was found on disk."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def save_checkpoint(folder: Path, step: int, tensors: Mapping[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Write the checkpoint of `step` and drop older ones. Raises DiskFull; the last good one stays then.

    A step that has one already keeps it: replacing the only good checkpoint could leave none.
    """
    whole = folder / f"step-{step:09d}"
    if _is_whole(whole):
        return
    beside = whole.with_suffix(".partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        with translate_disk_errors("a checkpoint of the run"):
            beside.mkdir(parents=True)
            save_file(_on_host(tensors), beside / _TENSORS)
            fsync_path(beside / _TENSORS)
            content = json.dumps(state).encode()
            write_atomically(beside / _STATE, content)
            sizes = {name: (beside / name).stat().st_size for name in (_TENSORS, _STATE)}
            manifest = {"step": step, "sizes": sizes, "state_sha256": hashlib.sha256(content).hexdigest()}
            write_atomically(beside / _MANIFEST, json.dumps(manifest))
            shutil.rmtree(whole, ignore_errors=True)
            beside.rename(whole)
            fsync_path(folder)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    for other in folder.glob("step-*"):
        if other != whole:
            shutil.rmtree(other)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], description: str) -> None:
    """Write one file of tensors beside the checkpoints, whole or not at all. Raises DiskFull, which names `what`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    with translate_disk_errors(description):
        save_file(_on_host(tensors), beside)
        fsync_path(beside)
        beside.replace(path)


def load_newest_checkpoint(folder: Path, device: torch.device) -> Checkpoint | None:
    """Return the newest whole checkpoint, or None."""
    for path in sorted(folder.glob(_WHOLE), reverse=True):
        if _is_whole(path):
            return Checkpoint(load_file(path / _TENSORS, device=str(device)), json.loads((path / _STATE).read_text()))
    return None


def _on_host(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _is_whole(path: Path) -> bool:
    try:
        manifest = json.loads((path / _MANIFEST).read_text())
        sizes_match = all((path / name).stat().st_size == size for name, size in manifest["sizes"].items())
        return sizes_match and hashlib.sha256((path / _STATE).read_bytes()).hexdigest() == manifest["state_sha256"]
    except (OSError, ValueError, KeyError):
        return False


def get_optimizer_tensors(optimizer: Optimizer) -> dict[str, torch.Tensor]:
    """Return the optimizer's state as named tensors: `optimizer.{number of the parameter}.{name}`."""
    return {
        f"optimizer.{number}.{name}": torch.as_tensor(value)
        for number, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: dict[str, torch.Tensor], group_values: dict[str, Any]) -> None:
    """Undo `optimizer_tensors`; `group` holds the numbers of its parameter group that change during a run."""
    content = optimizer.state_dict()
    states: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".", 2)
            states.setdefault(int(number), {})[key] = tensor
    content["state"] = states
    for each in content["param_groups"]:
        each.update(group_values)
    optimizer.load_state_dict(content)
    for parameter, state in optimizer.state.items():  # torch casts state to the parameter's type: masters are float32
        number = content["param_groups"][0]["params"][_place(optimizer, parameter)]
        for key, tensor in states[number].items():
            state[key] = tensor.clone()


def _place(optimizer: Optimizer, parameter: torch.Tensor) -> int:
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    return next(place for place, each in enumerate(parameters) if each is parameter)
