"""How a worker that is asked to leave tells its task: a file the main process writes and the pool child sees.

Celery's own warm shutdown waits for the task and says nothing to it; the file is named after the main process, which
is the child's parent, so workers on one machine do not drain each other.
"""

import os
from pathlib import Path

from soul_store.settings import get_settings


def _flag(main_pid: int) -> Path:
    return get_settings().scratch_dir / f".drain-{main_pid}"


def begin() -> None:
    """Ask this main process's task to checkpoint and leave."""
    flag = _flag(os.getpid())
    flag.parent.mkdir(parents=True, exist_ok=True)
    flag.touch()


def clear() -> None:
    """Forget the flag: of an earlier process of the same number at the start, our own at the end."""
    _flag(os.getpid()).unlink(missing_ok=True)


def is_draining() -> bool:
    """Say, in the pool child, whether its worker is leaving."""
    return _flag(os.getppid()).exists()
