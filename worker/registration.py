"""`python -m worker.registration`: records this machine's accelerator, which estimates read (`soul_store.workers`)."""

import os
import socket
import subprocess
import sys

from soul_core.log_config import configure_logging
from soul_store import workers
from soul_store.database import transaction
from soul_store.settings import get_settings
from soul_store.workers import Accelerator


def detect_accelerator() -> Accelerator:
    """Return "cuda" if the driver lists a GPU that this process may use. Does not load torch, unlike the engine."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return "cpu"
    try:
        process = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return "cpu"
    return "cuda" if process.stdout.strip() else "cpu"


def main() -> int:
    """Record this machine once."""
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)
    accelerator = detect_accelerator()
    with transaction() as session:
        workers.record(session, name=socket.gethostname(), accelerator=accelerator)
    return 0


if __name__ == "__main__":
    sys.exit(main())
