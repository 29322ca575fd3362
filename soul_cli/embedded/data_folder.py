"""The data folder of the embedded service: its lock, and the mark of a restore that did not end."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from soul_cli.embedded.errors import ServiceStartError

#: Exists while `soul restore` writes into the folder.
UNFINISHED_RESTORE = "restore.unfinished"


class FolderInUse(ServiceStartError):
    """Another process uses the folder."""


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock the data folder: two services would corrupt it. The kernel releases the lock even after a `kill -9`.

    Raises ServiceStartError if the folder cannot be used, FolderInUse if another process uses it.
    """
    lock: IO[str]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ServiceStartError(
            f"cannot write to {folder} ({error.strerror}); choose another folder: --data FOLDER"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FolderInUse(
                f"another soul serve runs on {folder}; stop it, or choose another folder: --data FOLDER"
            ) from None
        yield


def require_complete(folder: Path) -> None:
    """Raise ServiceStartError if a restore into the folder did not end."""
    if (folder / UNFINISHED_RESTORE).exists():
        raise ServiceStartError(
            f"a restore into {folder} did not end: run the same `soul restore` again, or choose another folder"
        )
