"""Names what does a machine's jobs: jobs on machines of one name have comparable costs."""

import os
import platform
from pathlib import Path


def describe_cpu() -> str:
    """Return the name of the CPU and the number of cores that the engine uses."""
    return f"{_get_cpu_name()}, {_count_cores()} cores"


def _get_cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "") or platform.processor() or platform.machine()


def _count_cores() -> int:
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads.isdigit() and int(threads) > 0:
        return int(threads)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
