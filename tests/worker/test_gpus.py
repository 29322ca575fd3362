"""Workers of one machine take different GPUs; the driver's program is replaced by one that lists two."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from soul_store.settings import Settings, get_settings
from worker import device
from worker.device import NoFreeGpuError, get_device, take_gpu
from worker.gpus import Gpu, list_gpus, try_lock_any
from worker.machine import count_ram_bytes, describe_cpu

FIRST, SECOND = "GPU-1a2b", "GPU-3c4d"
GPUS = [Gpu(0, FIRST, "NVIDIA H100", 81559 << 20), Gpu(1, SECOND, "NVIDIA H100", 81559 << 20)]

#: Takes a GPU in a process of its own, prints its UUID, and holds it until it is killed.
HOLDER = """
import os, time
from worker.device import take_gpu
lock = take_gpu()
print(os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A driver's program in place of the machine's own."""
    program = tmp_path / "nvidia-smi"
    lines = "\n".join(f"{gpu.index}, {gpu.uuid}, {gpu.name}, 81559" for gpu in GPUS)
    program.write_text(f"#!/bin/sh\ncat <<END\n{lines}\nEND\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # restored after the test, whatever take_gpu sets
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    get_device.cache_clear()
    yield program
    get_device.cache_clear()


@pytest.fixture
def holders(settings_env: Settings) -> Iterator[list[subprocess.Popen[str]]]:
    """Worker processes, killed after the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for holder in started:
        kill(holder)


def kill(holder: subprocess.Popen[str]) -> None:
    with holder:  # closes its output, and waits
        holder.kill()


def start_holder(holders: list[subprocess.Popen[str]]) -> str:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    holders.append(holder)
    assert holder.stdout is not None
    while (line := holder.stdout.readline().strip()) and not line.startswith("GPU-"):
        continue  # a log line
    return line


def test_gpus_are_listed_with_their_memory() -> None:
    assert list_gpus() == GPUS


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("1", GPUS[1:]),
        ("1,0", GPUS[::-1]),
        (FIRST, GPUS[:1]),
        ("GPU-3c", GPUS[1:]),
        ("0,7,1", GPUS[:1]),
        ("", []),
        ("-1", []),
        ("MIG-5e6f", [Gpu(-1, "MIG-5e6f", "part of a GPU", None)]),
    ],
)
def test_only_gpus_that_the_operator_made_visible_are_listed(visible: str, expected: list[Gpu]) -> None:
    assert list_gpus({**os.environ, "CUDA_VISIBLE_DEVICES": visible}) == expected


@pytest.mark.parametrize("script", ["exit 9", "true", "echo 'No devices were found'"])
def test_without_a_gpu_the_device_is_the_cpu_with_its_memory(nvidia_smi: Path, script: str) -> None:
    nvidia_smi.write_text(f"#!/bin/sh\n{script}\n")

    detected = get_device()

    assert (detected.accelerator, detected.machine, detected.memory_bytes) == ("cpu", describe_cpu(), count_ram_bytes())
    assert take_gpu() is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_a_worker_shows_its_engine_only_the_gpu_that_it_holds(settings_env: Settings) -> None:
    lock = take_gpu()

    assert lock is not None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == FIRST
    assert (get_device().device_id, get_device().memory_bytes) == (FIRST, 81559 << 20)
    lock.file.close()


def test_two_workers_take_different_gpus_and_a_third_none(
    settings_env: Settings, holders: list[subprocess.Popen[str]]
) -> None:
    taken = [start_holder(holders), start_holder(holders)]

    third = try_lock_any(list_gpus(), device.get_lock_folder())

    assert sorted(taken) == [FIRST, SECOND]
    assert third is None


def test_a_worker_that_finds_all_gpus_taken_says_what_to_do(
    settings_env: Settings, holders: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    assert start_holder(holders) == FIRST
    monkeypatch.setenv("SOUL_GRACE_SECONDS", "0.1")
    get_settings.cache_clear()

    with pytest.raises(NoFreeGpuError, match=r"hold the only GPU of this machine .* start one worker per GPU"):
        take_gpu()


def test_a_killed_worker_frees_its_gpu(settings_env: Settings, holders: list[subprocess.Popen[str]]) -> None:
    start_holder(holders)
    second = start_holder(holders)
    kill(holders[1])

    assert start_holder(holders) == second
