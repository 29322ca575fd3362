"""The service under test of `bench.chaos`: a real `soul serve`, started again whenever it ends, and its processes."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import psutil

from soul_cli.connection import CONNECTION_FILE, Connection, find_connection
from soul_cli.embedded.process import start_process, stop_process
from soul_cli.errors import SoulError

READY_SECONDS = 120.0
#: A part of the command line -> the kind of process. The first that fits.
_KINDS = {
    "soul_cli.main": "supervisor",
    "-m soul_core": "engine",
    "-m celery": "worker",
    "uvicorn": "API",
    "worker.maintenance": "maintenance",
    "valkey-server": "broker",
    "bin/postgres": "database",
    "postgres:": "database backend",
}


@dataclass
class ServiceUnderTest:
    """`soul serve` on a data folder of its own, and optionally a second worker whose clock is wrong."""

    folder: Path
    port: int
    environment: Mapping[str, str]
    clock_library: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    shifted_worker: subprocess.Popen[bytes] | None = None
    num_starts: int = 0
    _log: Path = field(init=False)

    def __post_init__(self) -> None:
        self._log = self.folder / "serve.log"
        for name in ("data", "tmp"):
            (self.folder / name).mkdir(mode=0o711, exist_ok=True)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def database_url(self) -> str:
        return f"postgresql+psycopg://soul@/soul?host={self.data / 'run'}"

    def keep_running(self) -> None:
        """Start what has ended, as an init system does."""
        if self.process is None or self.process.poll() is not None:
            self.num_starts += 1
            command = [
                sys.executable,
                "-m",
                "soul_cli.main",
                "serve",
                "--data",
                str(self.data),
                "--port",
                str(self.port),
            ]
            command += ["--model-root", str(self.folder / "models")]
            self.process = start_process(command, log=self._log, death_signal=signal.SIGTERM, env=self._environment())
        has_schema = (self.data / CONNECTION_FILE).exists()
        if (
            self.clock_library is not None
            and has_schema
            and (self.shifted_worker is None or self.shifted_worker.poll() is not None)
        ):
            self.shifted_worker = self._start_shifted_worker(self.clock_library)

    def wait_until_ready(self) -> Connection:
        """Wait until the API is ready, starting what ends meanwhile; return how to reach it."""
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            self.keep_running()
            try:
                connection = find_connection(data=self.data, env={})
                if httpx2.get(f"{connection.url}/readyz", timeout=2).status_code == 200:
                    return connection
            except (httpx2.TransportError, SoulError):
                pass
            time.sleep(0.2)
        tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-10:])
        raise RuntimeError(f"the service was not ready within {READY_SECONDS:.0f} s:\n{tail}")

    def stop(self) -> None:
        """Stop everything in order."""
        for process in (self.shifted_worker, self.process):
            if process is not None:
                stop_process(process, signal.SIGTERM, seconds=30)

    def copy_logs(self, target: Path) -> None:
        """Copy the logs of all processes to a folder."""
        target.mkdir(parents=True, exist_ok=True)
        for log in (*self.folder.glob("*.log"), *(self.data / "logs").glob("*.log")):
            shutil.copy(log, target)

    def list_processes(self) -> dict[str, list[psutil.Process]]:
        """Return the running processes by kind."""
        kinds: dict[str, list[psutil.Process]] = {}
        for root in (self.process, self.shifted_worker):
            if root is None or root.poll() is not None:
                continue
            try:
                tree = [psutil.Process(root.pid), *psutil.Process(root.pid).children(recursive=True)]
            except psutil.NoSuchProcess:
                continue
            for process in tree:
                if (kind := _classify(process)) is not None:
                    prefix = "shifted " if root is self.shifted_worker else ""
                    kinds.setdefault(prefix + kind, []).append(process)
        return kinds

    def list_leftover_processes(self) -> list[str]:
        """Return the command lines of running processes that belong to the folder."""
        mine, leftovers = os.getpid(), []
        for process in psutil.process_iter():
            try:
                texts = [*process.cmdline(), *process.environ().values()]
                if process.pid != mine and any(str(self.data) in text for text in texts):
                    leftovers.append(" ".join(process.cmdline())[:120])
            except psutil.Error:
                continue
        return [line for line in leftovers if line]

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("SOUL_")}
        return {
            **inherited,
            "TMPDIR": str(self.folder / "tmp"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "SOUL_LEASE_SECONDS": "3",
            "SOUL_MAX_ATTEMPTS": "1000",
            **self.environment,
        }

    def _start_shifted_worker(self, library: Path) -> subprocess.Popen[bytes]:
        """Start a worker whose clock is an hour ahead: another machine of the fleet, as it were."""
        settings = {
            "SOUL_DATABASE_URL": self.database_url,
            "SOUL_REDIS_URL": f"redis+socket://{self.data / 'run'}/valkey.sock?virtual_host=0",
            "SOUL_BLOBS_URL": (self.data / "blobs").as_uri(),
            "SOUL_SCRATCH_DIR": str(self.data / "scratch"),
            "SOUL_GRACE_SECONDS": "5",
            "SOUL_MODEL_ROOTS": str(self.folder / "models"),
            "C_FORCE_ROOT": "1",
            "TMPDIR": str(_make_empty(self.folder / "shifted-tmp")),  # as a container's, which ends with it
            "LD_PRELOAD": str(library),
            "SHIFT_SECONDS": "3600",
        }
        command = [sys.executable, "-m", "celery", "-A", "worker.celery_app", "worker", "--concurrency", "1"]
        command += ["-n", "shifted@%h", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        environment = {**self._environment(), **settings}
        return start_process(command, log=self.folder / "shifted.log", death_signal=signal.SIGKILL, env=environment)


def _make_empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def build_clock_library(folder: Path) -> Path | None:
    """Build the library that moves a process's clock. Return None without a C compiler or on another system."""
    source, library = Path(__file__).with_name("shifted_clock.c"), folder / "shifted_clock.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source)]
    if sys.platform != "linux" or shutil.which("cc") is None:
        return None
    return library if subprocess.run(command, check=False, capture_output=True).returncode == 0 else None


def _classify(process: psutil.Process) -> str | None:
    """Return the kind of a process of the service; None if it has just ended."""
    try:
        command, parent = process.cmdline(), process.parent()
        parent_command = parent.cmdline() if parent is not None else []
    except psutil.Error:
        return None
    if "celery" in command and "celery" in parent_command:
        return "pool child"
    text = " ".join(command)
    return next((kind for mark, kind in _KINDS.items() if mark in text), "child process" if text else None)
