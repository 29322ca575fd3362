"""The GPUs of this machine as the driver lists them, and the lock by which a worker takes one for itself.

Neither loads torch. The lock is the kernel's: it is free again when the processes of its worker have ended.
"""

import csv
import fcntl
import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

_QUERY = ("nvidia-smi", "--query-gpu=index,uuid,name,memory.total", "--format=csv,noheader,nounits")
_VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Gpu:
    """A GPU: `uuid` is how CUDA_VISIBLE_DEVICES names it. Its memory is None if the driver does not tell."""

    index: int
    uuid: str
    name: str
    memory_bytes: int | None


@dataclass(frozen=True)
class GpuLock:
    """The right to use a GPU, while the file is open."""

    gpu: Gpu
    file: IO[str]


def list_gpus(environment: Mapping[str, str] = os.environ) -> list[Gpu]:
    """Return the GPUs that this process may use, in the order of CUDA_VISIBLE_DEVICES or of the driver.

    None if there is no driver.
    """
    visible = environment.get(_VISIBLE)
    if visible is not None and visible.strip() in {"", "-1"}:
        return []
    try:
        process = subprocess.run(_QUERY, capture_output=True, timeout=30, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [gpu for row in csv.reader(process.stdout.splitlines(), skipinitialspace=True) if (gpu := _parse(row))]
    return gpus if visible is None else _select_visible(gpus, visible)


def try_lock_any(gpus: Sequence[Gpu], folder: Path) -> GpuLock | None:
    """Lock the first GPU that no other worker of this machine holds. None if all are taken."""
    folder.mkdir(parents=True, exist_ok=True)
    for gpu in gpus:
        file = (folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', gpu.uuid)}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
        else:
            return GpuLock(gpu, file)
    return None


def _parse(row: Sequence[str]) -> Gpu | None:
    if len(row) != 4 or not row[0].isdigit():
        return None
    index, uuid, name, mebibytes = row
    return Gpu(int(index), uuid, name, int(mebibytes) << 20 if mebibytes.isdigit() else None)


def _select_visible(gpus: Sequence[Gpu], visible: str) -> list[Gpu]:
    """Return the GPUs that the variable names, by index or by the start of a UUID; like CUDA, up to the first unknown.

    A part of a GPU (MIG) is a GPU of its own, of unknown memory.
    """
    chosen: list[Gpu] = []
    for text in visible.split(","):
        token = text.strip()
        if token.startswith("MIG-"):
            gpu: Gpu | None = Gpu(-1, token, "part of a GPU", None)
        else:
            gpu = next((gpu for gpu in gpus if token == str(gpu.index) or _is_uuid_prefix(token, gpu.uuid)), None)
        if gpu is None:
            break
        chosen.append(gpu)
    return chosen


def _is_uuid_prefix(token: str, uuid: str) -> bool:
    return token.startswith("GPU-") and uuid.startswith(token)
