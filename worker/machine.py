"""Describes what does a machine's jobs: jobs on machines of one name have comparable costs."""

import os
import platform
from pathlib import Path

#: Limits of a container's memory, of control groups version 2 and 1.
_MEMORY_LIMIT_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def describe_cpu() -> str:
    """Return the name of the CPU and the number of cores that the engine uses."""
    return f"{_get_cpu_name()}, {_count_cores()} cores"


def count_ram_bytes() -> int:
    """Return the memory of this machine, or of the container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = (_read_limit(Path(path)) for path in _MEMORY_LIMIT_FILES)
    return min([total, *(limit for limit in limits if limit is not None)])


def compute_load() -> float:
    """Return how many processes want to run, per core, in the last minute."""
    return round(os.getloadavg()[0] / (os.cpu_count() or 1), 2)


def _read_limit(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


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
