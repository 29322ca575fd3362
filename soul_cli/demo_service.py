"""A private `soul serve` for the demo, on a data folder and a port of its own. It ends with the demo."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2

from soul_cli.connection import CONNECTION_FILE, Connection, find_connection
from soul_cli.embedded import process
from soul_cli.embedded.ports import find_free_port
from soul_cli.errors import SoulError

READY_SECONDS = 60.0
STOP_SECONDS = 15.0


@contextmanager
def run_private_service(data: Path, *, model_roots: list[Path]) -> Iterator[Connection]:
    """Run `soul serve` on `data` while the block runs; models below `model_roots` may be registered by path."""
    data.mkdir(parents=True, exist_ok=True)
    log = data.parent / "service.log"
    connection_file = data / CONNECTION_FILE
    old_mtime_ns = connection_file.stat().st_mtime_ns if connection_file.exists() else 0
    port = find_free_port()
    roots = [str(root.resolve()) for root in model_roots]
    # The demo uses its own servers: SOUL_DATABASE_URL and SOUL_REDIS_URL of the environment are for other services.
    env = {name: value for name, value in os.environ.items() if name not in {"SOUL_DATABASE_URL", "SOUL_REDIS_URL"}}
    env["SOUL_MODEL_ROOTS"] = os.pathsep.join(roots)
    command = [sys.executable, "-m", "soul_cli.main", "serve", "--data", str(data), "--port", str(port)]
    service = process.start_process(command, log=log, death_signal=signal.SIGTERM, env=env)
    try:
        ready = process.wait_until(
            lambda: _is_ready(connection_file, old_mtime_ns, port, data), service, seconds=READY_SECONDS
        )
        if not ready:
            raise SoulError(f"the service did not start: {process.read_last_line(log)} (log: {log})", code="no_service")
        yield find_connection(data=data, env={})
    finally:
        process.stop_process(service, signal.SIGTERM, seconds=STOP_SECONDS)


def _is_ready(connection_file: Path, old_mtime_ns: int, port: int, data: Path) -> bool:
    if not connection_file.exists() or connection_file.stat().st_mtime_ns == old_mtime_ns:
        return False
    try:
        url = find_connection(data=data, env={}).url
        return url.endswith(f":{port}") and httpx2.get(f"{url}/readyz", timeout=2).status_code == 200
    except (httpx2.TransportError, SoulError):
        time.sleep(0.1)
        return False
