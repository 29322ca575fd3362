"""`soul serve`: the complete service on one machine, with embedded servers."""

import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from soul_cli.connection import CONNECTION_FILE, get_data_folder
from soul_cli.embedded.data_folder import lock_folder, require_complete
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.ports import check_port, find_free_port
from soul_cli.embedded.process import read_last_line
from soul_cli.embedded.service import WORKER_STOP_SECONDS, Service
from soul_cli.installation import SERVICE_PACKAGES, require_packages
from soul_core.formatting import format_duration

READY_SECONDS = 60.0


def serve(
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="PORT", min=0, max=65535, help="Port to listen on; 0 picks a free one.")
    ] = 8000,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder for database, queue, files and logs.",
            show_default="SOUL_DATA or ./soul-data",
        ),
    ] = None,
    model_roots: Annotated[
        list[Path] | None,
        typer.Option(
            "--model-root",
            metavar="FOLDER",
            help="Folder whose models may be registered by path. Repeatable.",
            show_default="SOUL_MODEL_ROOTS; else the folder models of the data folder",
        ),
    ] = None,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        typer.Option(help="Lowest level of the logs.", envvar="SOUL_LOG_LEVEL", case_sensitive=False),
    ] = "info",
) -> None:
    """Run the complete service on this machine until Ctrl-C.

    Starts API, worker, PostgreSQL and Valkey. A second start on the same data folder reuses its data. With
    SOUL_DATABASE_URL or SOUL_REDIS_URL set, those servers are used instead of the embedded ones.
    """
    require_packages(SERVICE_PACKAGES, extra="all")
    folder = get_data_folder(data).absolute()
    try:
        with lock_folder(folder), _collect_signals() as stop_signals:
            require_complete(folder)
            check_port(host, port)
            service = Service(folder, say=_say)
            try:
                url = _start(service, host, port or find_free_port(), model_roots, log_level, stop_signals)
                _say(f"  stop      Ctrl-C (or SIGTERM to process {os.getpid()})")
                while not stop_signals:
                    time.sleep(0.2)
                    service.watch()
                _say(f"\nStopping {url}")
            finally:
                service.stop()
    except ServiceStartError as error:
        print(f"soul serve: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(1) from None


def _start(
    service: Service, host: str, port: int, model_roots: list[Path] | None, log_level: str, stop_signals: list[int]
) -> str:
    """Start all processes and wait until the API answers or a stop signal arrives; return the URL."""
    started = time.monotonic()
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
    service.logs.mkdir(exist_ok=True)
    (service.data / "blobs").mkdir(exist_ok=True)
    os.environ.setdefault("SOUL_BLOBS_URL", (service.data / "blobs").as_uri())
    os.environ.setdefault("SOUL_SCRATCH_DIR", str(service.data / "scratch"))
    os.environ.setdefault("SOUL_GRACE_SECONDS", str(WORKER_STOP_SECONDS - 1.5))
    os.environ.update(SOUL_LOG_LEVEL=log_level, C_FORCE_ROOT="1")
    os.environ["SOUL_MODEL_ROOTS"] = _format_model_roots(service.data, model_roots)
    service.start_servers()
    # API and worker take a second or two to import; the schema is migrated meanwhile.
    api = ["uvicorn", "api.main:create_app", "--factory", "--host", host, "--port", str(port)]
    api += ["--timeout-graceful-shutdown", "2"]
    server = service.start_child("api", *api)
    worker = ["celery", "-A", "worker.celery_app", "worker", "--concurrency", "1"]
    worker += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    service.start_child("worker", *worker, environment=_offset_metrics_port(2))
    key = _prepare_database()
    _write_connection(service.data, url, key)  # before the next start can fail: the key must not be lost
    service.start_child("maintenance", "worker.maintenance", environment=_offset_metrics_port(1))
    while not stop_signals and not _is_ready(url):
        if server.process is not None and server.process.poll() is not None:
            raise ServiceStartError(f"the API did not start: {read_last_line(server.log)} (log: {server.log})")
        if time.monotonic() - started > READY_SECONDS:
            raise ServiceStartError(f"the API did not answer within {READY_SECONDS:.0f} s (log: {server.log})")
        time.sleep(0.05)
    if not stop_signals:
        _say(f"SOUL is ready after {format_duration(time.monotonic() - started)}")
        _say(f"  API       {url}")
        _say(f"  docs      {url}/docs")
        _say(f"  data      {service.data} (logs in {service.logs.name}/)")
        if key is not None:
            _say(f"  API key   {key}")
            _say(f"            of the admin, shown only now; `soul` reads it from {service.data / CONNECTION_FILE}")
        else:
            _say(f"  API key   of the admin: in {service.data / CONNECTION_FILE}")
    return url


def _prepare_database() -> str | None:
    """Migrate the schema; on the first start create the admin's key and return it."""
    from sqlalchemy.exc import SQLAlchemyError

    from api.services.keys import ensure_admin_key
    from migrations.run import upgrade
    from soul_store.database import transaction
    from soul_store.settings import get_settings

    get_settings.cache_clear()
    try:
        upgrade(get_settings().database_url)
        with transaction() as session:
            return ensure_admin_key(session)
    except SQLAlchemyError as error:
        raise ServiceStartError(f"the database cannot be used: {str(error).splitlines()[0]}") from error


def _format_model_roots(data: Path, model_roots: list[Path] | None) -> str:
    """Return SOUL_MODEL_ROOTS. Without any setting it is a folder of the service's own."""
    if model_roots:
        return os.pathsep.join(str(root.absolute()) for root in model_roots)
    (data / "models").mkdir(exist_ok=True)
    return os.environ.get("SOUL_MODEL_ROOTS", str(data / "models"))


def _offset_metrics_port(offset: int) -> dict[str, str]:
    """Return the environment of a child whose metrics have a port of their own on this machine."""
    port = os.environ.get("SOUL_METRICS_PORT", "0")
    return {} if port in {"", "0"} or not port.isdecimal() else {"SOUL_METRICS_PORT": str(int(port) + offset)}


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310  the URL of this service
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _write_connection(data: Path, url: str, key: str | None) -> None:
    """Write the file by which `soul` on this machine finds the service; without a new key the old one stays in it."""
    path = data / CONNECTION_FILE
    if key is None and path.exists():
        key = json.loads(path.read_text()).get("api_key")
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({"url": url, "api_key": key, "pid": os.getpid()}, out)
    partial.replace(path)


@contextmanager
def _collect_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in the yielded list instead of being interrupted, also while the service stops."""
    received: list[int] = []

    def add_signal(number: int, _: FrameType | None) -> None:
        received.append(number)

    old_handlers = {number: signal.signal(number, add_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in old_handlers.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  the command's output
