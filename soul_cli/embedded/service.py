"""Supervises the service's processes on one machine: servers, API, worker and maintenance process.

All of them end with the supervisor, even if that is killed. A process that ends alone is restarted.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from soul_cli.embedded.account import Account
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.postgres import Postgres, make_runtime_folder
from soul_cli.embedded.process import read_last_line, start_process, stop_process
from soul_cli.embedded.valkey import Valkey

#: Folder for the files of root's servers, if their account cannot enter the data folder (below /root, for example).
ROOT_HOME = Path("/var/lib/soul")
#: A worker that drains writes a checkpoint first. Stopping all processes takes at most ten seconds.
WORKER_STOP_SECONDS = 7.0
STOP_SECONDS = 3.0
MAX_RESTART_PAUSE_SECONDS = 10.0
#: The kernel limits a socket's path to 107 bytes, of which names such as `worker/pymp-.../listener-...` take about 40.
MAX_TEMPORARY_PATH_BYTES = 65


@dataclass
class ChildProcess:
    """One of SOUL's own processes, with what a restart needs."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    temporary: Path | None = None
    """A folder for its temporary files, emptied before each start: a killed process leaves them."""
    num_restarts: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0

    def start(self) -> None:
        environment = {**os.environ, **self.environment}
        if self.temporary is not None:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir(mode=0o700, parents=True)
            environment["TMPDIR"] = str(self.temporary)
        self.process = start_process(self.command, log=self.log, death_signal=signal.SIGKILL, env=environment)
        self.started_at = time.monotonic()


@dataclass
class Service:
    """Starts, supervises and stops all processes. `say` is called with each line for the user."""

    data: Path
    say: Callable[[str], None]
    servers: list[Postgres | Valkey] = field(default_factory=list)
    children: list[ChildProcess] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    @property
    def _temporary(self) -> Path | None:
        """The folder for temporary files; None if its path is too long for the sockets that libraries put there."""
        folder = self.data / "tmp"
        return folder if len(os.fsencode(folder)) <= MAX_TEMPORARY_PATH_BYTES else None

    def start_servers(self) -> None:
        """Start PostgreSQL and Valkey unless the environment names others; set their URLs in the environment."""
        needs_database = "SOUL_DATABASE_URL" not in os.environ
        needs_broker = "SOUL_REDIS_URL" not in os.environ
        if not (needs_database or needs_broker):
            return
        account = Account.choose()
        home = make_home(self.data, account, self.say)
        runtime = make_runtime_folder(home, account)
        if needs_broker:
            valkey = Valkey(home, runtime=runtime, log=self.logs / "valkey.log", account=account)
            self.servers.append(valkey)
            valkey.start()
            os.environ["SOUL_REDIS_URL"] = valkey.url
        if needs_database:
            postgres = Postgres(home, runtime=runtime, log=self.logs / "postgres.log", account=account)
            self.servers.append(postgres)
            postgres.start()
            os.environ["SOUL_DATABASE_URL"] = postgres.make_url()

    def start_child(
        self, name: str, *command: str, environment: Mapping[str, str] = MappingProxyType({})
    ) -> ChildProcess:
        """Start `python -m COMMAND`, with its output in NAME.log. `environment` is added to that of this process."""
        child = ChildProcess(
            name,
            [sys.executable, "-m", *command],
            self.logs / f"{name}.log",
            environment=environment,
            temporary=None if self._temporary is None else self._temporary / name,
        )
        self.children.append(child)
        child.start()
        return child

    def watch(self) -> None:
        """Restart processes that ended since the last call; one that ends at once waits longer each time."""
        for server in self.servers:
            if server.process is not None and server.process.poll() is not None:
                name = type(server).__name__
                self.say(f"{name} ended unexpectedly ({read_last_line(server.log)}); restarting it")
                server.start()
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            now = time.monotonic()
            if child.restart_at <= child.started_at:  # no restart is scheduled yet
                child.num_restarts = 0 if now - child.started_at > 60 else child.num_restarts + 1
                pause = min(MAX_RESTART_PAUSE_SECONDS, 0.5 * 2**child.num_restarts)
                child.restart_at = now + pause
                self.say(
                    f"{child.name} ended unexpectedly with code {child.process.returncode}; restarting it in "
                    f"{pause:.0f} s (log: {child.log})"
                )
            elif now >= child.restart_at:
                child.start()

    def stop(self) -> None:
        """Stop all processes within ten seconds: SOUL's own together, then the servers that they use."""
        running = [child for child in self.children if child.process is not None and child.process.poll() is None]
        for child in running:
            assert child.process is not None
            child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + WORKER_STOP_SECONDS
        for child in running:
            assert child.process is not None
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                stop_process(child.process, signal.SIGKILL, seconds=1)
        for server in self.servers:
            server.stop(STOP_SECONDS / 2)
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def find_home(data: Path, account: Account) -> Path:
    """Return the folder of the servers' files: the data folder, or one below ROOT_HOME that their account can enter."""
    if account.uid is None or account.can_reach(data):
        return data
    return ROOT_HOME / sha256(str(data).encode()).hexdigest()[:12]


def make_home(data: Path, account: Account, say: Callable[[str], None]) -> Path:
    """Make and return the folder of the servers' files. Raises ServiceStartError."""
    home = find_home(data, account)
    if home == data:
        return data
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ServiceStartError(
            f"the account '{account.name}' cannot enter {data}, and {home} cannot be created "
            f"({error.strerror}); choose a data folder that it can enter: --data FOLDER"
        ) from error
    say(f"the account '{account.name}' cannot enter {data}: the servers' files are in {home}")
    return home
