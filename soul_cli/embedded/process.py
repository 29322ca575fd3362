"""Child processes that end with their parent, even if that is killed."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from soul_core.parent_death import request_death_signal


def start_process(
    command: Sequence[str], *, log: Path, death_signal: signal.Signals, **options: Any
) -> subprocess.Popen[bytes]:
    """Start a child in its own session (Ctrl-C reaches only the supervisor), its output appended to `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=partial(request_death_signal, death_signal),  # noqa: PLW1509 (the supervisor has one thread)
            **options,
        )


def stop_process(process: subprocess.Popen[bytes], sig: signal.Signals, *, seconds: float) -> None:
    """Send `sig` to a process, wait, and kill it if it still runs then. Does nothing if it has ended."""
    if process.poll() is None:
        process.send_signal(sig)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[bytes], *, seconds: float) -> bool:
    """Poll `ready` until it returns true; return False if the process ends or the time is over first."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return False
        if ready():
            return True
        time.sleep(0.02)
    return False


def read_last_line(log: Path) -> str:
    """Return the last non-empty line of a log: the reason of a server that ended."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()] if log.exists() else []
    return lines[-1] if lines else "no output"
