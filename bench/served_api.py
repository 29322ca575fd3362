"""The API in a process of its own on a real database, and a bare endpoint on the same stack, for load tests."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from sqlalchemy import text

from api.services.keys import ensure_admin_key
from migrations.run import upgrade
from soul_cli.embedded.service import Service
from soul_store.database import transaction

#: The applications, their ports, and a path of each that answers without a key.
_TARGETS = (("api.main:create_app", 18431, "healthz"), ("bench.served_api:make_bare_app", 18432, "row"))


@dataclass(frozen=True)
class Server:
    """A running HTTP server."""

    port: int
    process: psutil.Process

    def read_cpu_seconds(self) -> float:
        """Return the CPU seconds that the process has used."""
        times = self.process.cpu_times()
        return float(times.user + times.system)


@dataclass(frozen=True)
class ServedApi:
    """The API, the bare endpoint, and a key."""

    api: Server
    bare: Server
    key: str


def make_bare_app() -> FastAPI:
    """Return what a request costs at least: one SELECT of one row through the same session, as JSON."""
    app = FastAPI(openapi_url=None)

    @app.get("/row")
    def get_row() -> JSONResponse:
        with transaction() as session:
            return JSONResponse({"id": session.scalar(text("SELECT id FROM tenants LIMIT 1"))})

    return app


@contextmanager
def serve_api(folder: Path) -> Iterator[ServedApi]:
    """Start servers, API and bare endpoint in a folder; stop them at the end."""
    os.environ |= {"SOUL_BLOBS_URL": (folder / "blobs").as_uri(), "SOUL_SCRATCH_DIR": str(folder / "scratch")}
    os.environ["SOUL_LOG_LEVEL"] = "warning"  # as much as the bare endpoint logs
    service = Service(folder, print)
    service.logs.mkdir()
    (folder / "blobs").mkdir()
    folder.chmod(0o711)
    processes: list[subprocess.Popen[bytes]] = []
    try:
        service.start_servers()
        upgrade(os.environ["SOUL_DATABASE_URL"])
        with transaction() as session:
            key = ensure_admin_key(session)
        assert key is not None
        servers = []
        for target, port, path in (
            ("api.main:create_app", 18431, "healthz"),
            ("bench.served_api:make_bare_app", 18432, "row"),
        ):
            command = [sys.executable, "-m", "uvicorn", target, "--factory", "--port", str(port), "--no-access-log"]
            command += ["--log-level", "warning", "--backlog", "4096"]
            process = subprocess.Popen(command)
            processes.append(process)
            _wait_for(f"http://127.0.0.1:{port}/{path}", process)
            servers.append(Server(port, psutil.Process(process.pid)))
        yield ServedApi(servers[0], servers[1], key)
    finally:
        for process in processes:
            process.terminate()
            process.wait()
        service.stop()


def _wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=2)
        except (urllib.error.URLError, OSError):
            assert process.poll() is None, "the server has ended"
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(url)
