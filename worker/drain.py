"""Tells the running task that its worker shuts down: a file that the main process writes and the pool child checks.

Celery's warm shutdown only waits for the task. The file is named after the main process, the child's parent, so that
workers on one machine do not drain each other.
"""

import os
from pathlib import Path

from soul_store.settings import get_settings


def _get_flag(main_pid: int) -> Path:
    return get_settings().scratch_dir / f".drain-{main_pid}"


def begin() -> None:
    """Ask the task of this main process to write a checkpoint and to end."""
    flag = _get_flag(os.getpid())
    flag.parent.mkdir(parents=True, exist_ok=True)
    flag.touch()


def clear() -> None:
    """Remove the flag of this main process, or of an earlier process with the same id."""
    _get_flag(os.getpid()).unlink(missing_ok=True)


def is_draining() -> bool:
    """Return, in the pool child, whether its worker shuts down."""
    return _get_flag(os.getppid()).exists()
