"""The service's processes on one machine: servers, API, worker and keeper, children of one supervisor.

They all go when it goes, however it dies. A child that dies alone is started again.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from soul_cli.embedded.account import Account
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.postgres import Postgres, make_runtime_folder
from soul_cli.embedded.process import read_last_line, start_process, stop_process
from soul_cli.embedded.valkey import Valkey

#: Where root's servers keep their files when their account cannot enter the data folder (say, below /root).
ROOT_HOME = Path("/var/lib/soul")
#: A worker that is asked to leave writes a checkpoint first; all has to end within ten seconds.
WORKER_STOP_SECONDS = 7.0
STOP_SECONDS = 3.0
_LONGEST_PAUSE = 10.0


@dataclass
class ChildProcess:
    """One of our own processes and what is done when it dies."""

    name: str
    command: list[str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    num_restarts: int = 0
    restart_at: float = 0.0
    started_at: float = 0.0

    def start(self) -> None:
        self.process = start_process(self.command, log=self.log, death_signal=signal.SIGKILL)
        self.started_at = time.monotonic()


@dataclass
class Service:
    """Starts, watches and stops everything. `say` gets one line for whatever a user should know."""

    data: Path
    say: Callable[[str], None]
    servers: list[Postgres | Valkey] = field(default_factory=list)
    children: list[ChildProcess] = field(default_factory=list)

    @property
    def logs(self) -> Path:
        return self.data / "logs"

    def start_servers(self) -> None:
        """Start PostgreSQL and Valkey unless the environment names others; name ours in the environment."""
        own_database = "SOUL_DATABASE_URL" not in os.environ
        own_broker = "SOUL_REDIS_URL" not in os.environ
        if not (own_database or own_broker):
            return
        account = Account.choose()
        home = self._home_for(account)
        runtime = make_runtime_folder(home, account)
        if own_broker:
            valkey = Valkey(home, runtime=runtime, log=self.logs / "valkey.log", account=account)
            self.servers.append(valkey)
            valkey.start()
            os.environ["SOUL_REDIS_URL"] = valkey.url
        if own_database:
            postgres = Postgres(home, runtime=runtime, log=self.logs / "postgres.log", account=account)
            self.servers.append(postgres)
            postgres.start()
            os.environ["SOUL_DATABASE_URL"] = postgres.make_url()

    def start_child(self, name: str, *command: str) -> ChildProcess:
        """Start one of our own processes, output to its log."""
        child = ChildProcess(name, [sys.executable, "-m", *command], self.logs / f"{name}.log")
        self.children.append(child)
        child.start()
        return child

    def watch(self) -> None:
        """Start again whatever died since the last call; a child that dies at once waits longer each time."""
        for server in self.servers:
            if server.process is not None and server.process.poll() is not None:
                name = type(server).__name__
                self.say(f"{name} ended unexpectedly ({read_last_line(server.log)}); starting it again")
                server.start()
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            now = time.monotonic()
            if child.restart_at <= child.started_at:  # its death is news
                child.num_restarts = 0 if now - child.started_at > 60 else child.num_restarts + 1
                pause = min(_LONGEST_PAUSE, 0.5 * 2**child.num_restarts)
                child.restart_at = now + pause
                self.say(
                    f"{child.name} ended unexpectedly with code {child.process.returncode}; starting it again in "
                    f"{pause:.0f} s (log: {child.log})"
                )
            elif now >= child.restart_at:
                child.start()

    def stop(self) -> None:
        """End everything: our own processes together, then the servers they use. Within ten seconds."""
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

    def _home_for(self, account: Account) -> Path:
        """Return the folder for the servers' own files: the data folder, where their account can enter it."""
        if account.uid is None or account.can_reach(self.data):
            return self.data
        home = ROOT_HOME / sha256(str(self.data).encode()).hexdigest()[:12]
        try:
            home.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ServiceStartError(
                f"the account '{account.name}' cannot enter {self.data}, and {home} cannot be made "
                f"({error.strerror}); choose a data folder it can enter: --data FOLDER"
            ) from error
        self.say(f"the account '{account.name}' cannot enter {self.data}: the servers keep their files in {home}")
        return home
