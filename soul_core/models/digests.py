"""Digests of a model's files: the files of a registered path can change, so they are checked before every use.

`load_model` hashes the files, loads them, and checks that they did not change meanwhile.
"""

import hashlib
import re
from pathlib import Path

from torch import nn

from soul_core.atomic_io import compute_sha256
from soul_core.errors import BadModel
from soul_core.models.files import MODEL_FILE_PATTERNS, inspect_model

#: Name, inode, size in bytes and time of the last change (ns) of each file that loading may read.
FileStamps = tuple[tuple[str, int, int, int], ...]

_SHA256, _GIT_SHA1 = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")


def compute_current_digest(source: str, *, revision: str | None = None) -> str | None:
    """Return the digest of a source's files as they are now; of a hub id, the commit it is pinned to.

    None: a branch of a hub id, which only the hub can resolve. Raises BadModel for files that are not a model.
    """
    path = Path(source)
    if path.exists():
        return inspect_model(path).digest
    return revision if revision and _GIT_SHA1.fullmatch(revision) else None


def require_digest(display_name: str, digest: str, registered_digest: str | None) -> None:
    """Raise BadModel with both digests unless a model is the registered one; None: it was not registered."""
    if registered_digest is None or digest == registered_digest:
        return
    raise BadModel(
        f"the files of the model {display_name} changed since it was registered; register it again, or restore the "
        "registered files; if a job wrote the model, delete it and run that job again",
        details=(f"registered digest: {registered_digest}", f"digest now: {digest}"),
    )


def read_file_stamps(folder: Path) -> FileStamps:
    """Return what changes when a process writes to the model's files in a folder."""
    paths = sorted({path for pattern in MODEL_FILE_PATTERNS for path in folder.glob(pattern) if path.is_file()})
    stats = [(path.name, path.stat()) for path in paths]
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


def require_unchanged(display_name: str, folder: Path, stamps_before: FileStamps) -> None:
    """Raise BadModel if a file was written or replaced since `stamps_before`: other bytes may have been loaded than
    hashed.
    """
    now = read_file_stamps(folder)
    if now != stamps_before:
        changed = sorted({name for name, *_ in set(now) ^ set(stamps_before)})
        raise BadModel(
            f"files of the model {display_name} changed while it was loaded; run again when no other process writes to "
            "them",
            details=tuple(changed),
        )


def copy_parameters_to_memory(model: nn.Module) -> None:
    """Copy every parameter out of the mapped file.

    safetensors maps files into memory: a process that overwrites the file in place would change weights that were not
    read yet, during the run.
    """
    for parameter in model.parameters():
        if parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def require_intact_snapshot(folder: Path) -> None:
    """Raise BadModel if a file of a hub snapshot does not have the hash that its name in the cache states.

    The hub's cache names a blob by its sha256 (large files) or by git's sha1 of it; the snapshot links to blobs.
    """
    damaged = [path.name for path in sorted(folder.iterdir()) if path.is_symlink() and not _is_intact(path.resolve())]
    if damaged:
        raise BadModel(
            f"the cached download in {folder} is damaged; remove that folder and the files it links to, then run again",
            details=tuple(damaged),
        )


def _is_intact(blob: Path) -> bool:
    if _SHA256.fullmatch(blob.name):
        return compute_sha256(blob) == blob.name
    if _GIT_SHA1.fullmatch(blob.name):
        content = hashlib.sha1(f"blob {blob.stat().st_size}\0".encode(), usedforsecurity=False)
        with blob.open("rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
        return content.hexdigest() == blob.name
    return True  # its name is not a hash
