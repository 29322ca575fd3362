"""Finds the processes of a job in /proc."""

import os
import signal
import time
from pathlib import Path


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0


def engines_of(job_id: str) -> list[int]:
    """Return the running engine processes of a job."""
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    return [pid for pid in pids if "soul_core" in command_of(pid) and job_id in command_of(pid)]


def engine_of(job_id: str) -> int:
    (pid,) = engines_of(job_id)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def wait_gone(job_id: str, *, seconds: float = 10) -> None:
    """Wait until no engine of the job runs."""
    deadline = time.monotonic() + seconds
    while engines_of(job_id):
        assert time.monotonic() < deadline, f"engines {engines_of(job_id)} of {job_id} still run"
        time.sleep(0.05)
