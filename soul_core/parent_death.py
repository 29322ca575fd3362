"""Ends a process when its parent dies. Linux only: other systems do not support it. Lowest layer, without torch."""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
# Loaded at import: a child between fork and exec must not load libraries.
_LIBC = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def request_death_signal(number: signal.Signals) -> None:
    """Ask the kernel to send this process a signal when its parent dies.

    The kernel drops the request when the process changes its user; call it after that.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, int(number))


def die_with_parent(parent_pid: int) -> None:
    """Have this process killed when its parent dies, and exit at once if that has already happened."""
    request_death_signal(signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit(1)
