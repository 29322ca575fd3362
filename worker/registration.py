"""`python -m worker.registration`: records this machine's accelerator for estimates (`soul_store.workers`)."""

import os
import re
import socket
import subprocess
import sys

from soul_core.log_config import configure_logging
from soul_store import workers
from soul_store.database import transaction
from soul_store.settings import get_settings
from soul_store.workers import Accelerator
from worker.machine import describe_cpu


def detect_accelerator() -> tuple[Accelerator, str]:
    """Return "cuda" and the name of the GPU if the driver lists one that this process may use, else "cpu" and its name.

    Does not load torch, unlike the engine.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") in {"", "-1"}:
        return "cpu", describe_cpu()
    try:
        process = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, timeout=30, check=True, text=True)
    except (OSError, subprocess.SubprocessError):
        return "cpu", describe_cpu()
    match = re.match(r"GPU \d+: (.*?)(?: \(UUID.*)?$", process.stdout.strip(), flags=re.MULTILINE)
    return ("cuda", match[1]) if match else ("cpu", describe_cpu())


def main() -> int:
    """Record this machine once."""
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)
    accelerator, machine = detect_accelerator()
    with transaction() as session:
        workers.record(session, name=socket.gethostname(), accelerator=accelerator, machine=machine)
    return 0


if __name__ == "__main__":
    sys.exit(main())
