"""The device that does this worker's jobs. Two workers on one machine take different GPUs."""

import os
import socket
import time
from functools import cache
from pathlib import Path

import structlog

from soul_store.placement import WorkerDevice
from soul_store.settings import get_settings
from worker.gpus import GpuLock, list_gpus, try_lock_any
from worker.machine import count_ram_bytes, describe_cpu

log = structlog.stdlib.get_logger(__name__)

_RETRY_SECONDS = 0.5


class NoFreeGpuError(Exception):
    """Other workers of this machine hold all of its GPUs."""


def get_worker_name(main_pid: int) -> str:
    """Return the name of a worker, by the id of its main process."""
    return f"{socket.gethostname()}:{main_pid}"


def take_gpu() -> GpuLock | None:
    """Lock a GPU for this worker and make it the only one that its engine sees. None if the machine has no GPU.

    A worker that replaces another waits for its GPU: as long as the other may take to write a checkpoint.

    Raises:
        NoFreeGpuError: Other workers hold all of them.
    """
    gpus = list_gpus()
    if not gpus:
        return None
    deadline = time.monotonic() + get_settings().grace_seconds
    folder = get_lock_folder()
    while (lock := try_lock_any(gpus, folder)) is None:
        if time.monotonic() > deadline:
            count = "the only GPU" if len(gpus) == 1 else f"all {len(gpus)} GPUs"
            message = (
                f"other workers hold {count} of this machine (locks in {folder}); start one worker per GPU, "
                "or set CUDA_VISIBLE_DEVICES to an empty value for a worker on the CPU"
            )
            raise NoFreeGpuError(message)
        time.sleep(_RETRY_SECONDS)
    os.environ["CUDA_VISIBLE_DEVICES"] = lock.gpu.uuid
    get_device.cache_clear()
    log.info("worker has taken a GPU", gpu=lock.gpu.name, uuid=lock.gpu.uuid)
    return lock


def get_lock_folder() -> Path:
    """Return the folder of the locks of GPUs: all workers of a machine must share it."""
    return get_settings().scratch_dir / "gpus"


@cache
def get_device() -> WorkerDevice:
    """Return the device that the engine of this process uses: its GPU, or the CPU."""
    ram_bytes = count_ram_bytes()
    gpus = list_gpus()
    if not gpus:
        return WorkerDevice("cpu", describe_cpu(), memory_bytes=ram_bytes, ram_bytes=ram_bytes)
    gpu = gpus[0]
    return WorkerDevice("cuda", gpu.name, gpu.uuid, memory_bytes=gpu.memory_bytes, ram_bytes=ram_bytes)
