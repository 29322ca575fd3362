"""`python -m worker.liveness PROCESS`: checks that a process on this machine still works, for containers.

The process touches a file of its own while its main loop runs. Nothing else is asked: a database that is
unavailable is not a reason to restart a worker.
"""

import argparse
import socket
import sys
import time
from pathlib import Path

from soul_store.settings import get_settings

PROCESSES = ("worker", "maintenance")
REPORT_SECONDS = 5.0
#: Longer than a round of the maintenance process waits for a database that does not answer.
_MAX_AGE_SECONDS = 60.0


def report(process: str) -> None:
    """Record that the main loop of this process runs. A disk that is full must not end it."""
    path = _get_file(process)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        return


def clear(process: str) -> None:
    """Remove the record of a process that ends in order."""
    _get_file(process).unlink(missing_ok=True)


def get_age_seconds(process: str) -> float | None:
    """Return how long ago the process reported. None if it never did, or ended in order."""
    try:
        return max(0.0, time.time() - _get_file(process).stat().st_mtime)
    except OSError:
        return None


def _get_file(process: str) -> Path:
    # the scratch folder may be shared by machines
    return get_settings().scratch_dir / f".alive-{process}-{socket.gethostname()}"


def main(arguments: list[str] | None = None) -> int:
    """Return 0 if the process reported lately, else print why not and return 1."""
    parser = argparse.ArgumentParser(prog="python -m worker.liveness", description=__doc__)
    parser.add_argument("process", choices=PROCESSES)
    parser.add_argument("--max-age", type=float, default=_MAX_AGE_SECONDS, metavar="SECONDS")
    options = parser.parse_args(arguments)
    age_seconds = get_age_seconds(options.process)
    if age_seconds is not None and age_seconds <= options.max_age:
        return 0
    last = "never" if age_seconds is None else f"{age_seconds:.0f} s ago"
    sys.stderr.write(f"the {options.process} process last reported {last}; restart it if that does not change\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
