"""The faults of `bench.chaos`: kills of any process, lost broker files, a full disk, no free connection."""

import random
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from bench.chaos_service import ServiceUnderTest

BROKER_FILES = "broker and its files"
_FAULT_SECONDS = 3.0
_MAX_CONNECTIONS = 500
#: A fault other than a kill follows after this many kills.
_KILLS_PER_FAULT = 5


@dataclass
class Faults:
    """Injects seeded faults and counts them."""

    service: ServiceUnderTest
    random: random.Random
    disk: Path | None
    """A file system of limited size that holds the data; None: the disk is not filled."""
    say: Callable[[str], None]
    kills: Counter[str] = field(default_factory=Counter)
    others: Counter[str] = field(default_factory=Counter)

    def run(self, num_kills: int, *, is_over: Callable[[], bool]) -> None:
        """Kill so often, with a pause of one to four seconds before each; other faults in between.

        Ends early when nothing is left to disturb.
        """
        while self.kills.total() < num_kills and not is_over():
            deadline = time.monotonic() + self.random.uniform(1.0, 4.0)
            while time.monotonic() < deadline:
                self.service.keep_running()
                time.sleep(0.1)
            if self._kill() and self.kills.total() % _KILLS_PER_FAULT == 0:
                self._disturb()

    def _kill(self) -> bool:
        """Kill one process of a kind that runs now. Every kind is equally likely, however many processes it has."""
        processes = self.service.list_processes()
        kinds = sorted(processes) + ([BROKER_FILES] if "broker" in processes else [])
        if not kinds:
            return False
        kind = self.random.choice(kinds)
        process = self.random.choice(sorted(processes["broker" if kind == BROKER_FILES else kind], key=_get_pid))
        with suppress(psutil.NoSuchProcess):
            process.kill()
            if kind == BROKER_FILES:
                shutil.rmtree(self.service.data / "valkey", ignore_errors=True)
            self.kills[kind] += 1
            self.say(f"kill {self.kills.total()}: {kind}")
            return True
        return False

    def _disturb(self) -> None:
        faults = {"no free connection": self._take_all_connections}
        if self.disk is not None:
            faults["disk full"] = self._fill_disk
        name = sorted(faults)[self.others.total() % len(faults)]
        self.say(f"fault: {name}")
        self.others[name] += 1
        faults[name]()

    def _take_all_connections(self) -> None:
        """Hold every connection that the server gives, for some seconds."""
        address = f"host={self.service.data / 'run'} user=soul dbname=soul"
        connections: list[psycopg.Connection] = []
        with suppress(psycopg.Error):  # none is left, or the server restarts
            while len(connections) < _MAX_CONNECTIONS:
                connections += [psycopg.connect(address, connect_timeout=3)]
        time.sleep(_FAULT_SECONDS)
        for connection in connections:
            connection.close()

    def _fill_disk(self) -> None:
        """Fill the data folder's file system to the last byte, for some seconds."""
        assert self.disk is not None
        filler = self.disk / "filler"
        try:
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(1 << 20))
            time.sleep(_FAULT_SECONDS)
        finally:
            filler.unlink(missing_ok=True)


def mount_small_disk(folder: Path, *, num_bytes: int) -> bool:
    """Mount a file system of limited size. Return False where that is not allowed."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={num_bytes},mode=0711", "tmpfs", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def unmount(folder: Path) -> None:
    """Unmount it; a process that still has files there keeps it alive, not this program."""
    subprocess.run(["umount", "-l", str(folder)], check=False, capture_output=True)


def _get_pid(process: psutil.Process) -> int:
    return int(process.pid)
