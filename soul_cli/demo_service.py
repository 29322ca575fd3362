"""A private `soul serve` for the demo: its own data folder, a free port, gone when the demo goes."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from soul_cli.connection import CONNECTION_FILE, Connection, find_connection
from soul_cli.embedded import process
from soul_cli.errors import SoulError

READY_SECONDS = 60.0
STOP_SECONDS = 15.0


@contextmanager
def run_private_service(data: Path, *, model_roots: list[Path]) -> Iterator[Connection]:
    """Run `soul serve` on `data` while the block runs; models may be read below `model_roots`."""
    data.mkdir(parents=True, exist_ok=True)
    log = data.parent / "service.log"
    connection_file = data / CONNECTION_FILE
    before = connection_file.stat().st_mtime_ns if connection_file.exists() else 0
    port = find_free_port()
    roots = [str(root.resolve()) for root in model_roots]
    # The demo's data is private to it: settings that point elsewhere are for other services.
    inherited = {
        name: value for name, value in os.environ.items() if name not in {"SOUL_DATABASE_URL", "SOUL_REDIS_URL"}
    }
    env = inherited | {"SOUL_MODEL_ROOTS": os.pathsep.join(roots)}
    command = [sys.executable, "-m", "soul_cli.main", "serve", "--data", str(data), "--port", str(port)]
    service = process.start_process(command, log=log, death_signal=signal.SIGTERM, env=env)
    try:
        ready = process.wait_until(
            lambda: _is_ready(connection_file, before, port, data), service, seconds=READY_SECONDS
        )
        if not ready:
            raise SoulError(
                f"the service did not start: {process.read_last_line(log)} (all of it: {log})", code="no_service"
            )
        yield find_connection(data=data, env={})
    finally:
        process.stop_process(service, signal.SIGTERM, seconds=STOP_SECONDS)


def find_free_port() -> int:
    """Return a port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _is_ready(connection_file: Path, before: int, port: int, data: Path) -> bool:
    if not connection_file.exists() or connection_file.stat().st_mtime_ns == before:
        return False
    try:
        url = find_connection(data=data, env={}).url
        return url.endswith(f":{port}") and httpx.get(f"{url}/readyz", timeout=2).status_code == 200
    except (httpx.TransportError, SoulError):
        time.sleep(0.1)
        return False
