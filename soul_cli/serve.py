"""`soul serve`: the whole service on one machine, real servers, nothing to install."""

import fcntl
import ipaddress
import json
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Annotated

import typer

from soul_cli.connection import CONNECTION_FILE, get_data_folder
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.postgres import find_free_port
from soul_cli.embedded.process import read_last_line
from soul_cli.embedded.service import WORKER_STOP_SECONDS, Service

READY_SECONDS = 60.0


def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")] = 8000,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder for database, queue, files and logs.", show_default="SOUL_DATA or ./soul-data"),
    ] = None,
    model_root: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder whose models may be registered by path; may be repeated.",
            show_default="SOUL_MODEL_ROOTS; else any, on a loopback address",
        ),
    ] = None,
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error.")] = "info",
) -> None:
    """Run the whole service on this machine until Ctrl-C: API, worker, PostgreSQL and Valkey.

    A second start on the same data folder finds everything again. With SOUL_DATABASE_URL or SOUL_REDIS_URL set, those
    servers are used instead of the embedded ones.
    """
    folder = get_data_folder(data).absolute()
    try:
        with _held(folder), _signals() as wanted:
            _check_port(host, port)
            service = Service(folder, say=_say)
            try:
                url = _start(service, host, port or find_free_port(), model_root, log_level, wanted)
                _say(f"  stop      Ctrl-C (or SIGTERM to process {os.getpid()})")
                while not wanted:
                    time.sleep(0.2)
                    service.watch()
                _say(f"\nStopping {url}")
            finally:
                service.stop()
    except ServiceStartError as error:
        print(f"soul serve: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(1) from None


def _start(
    service: Service, host: str, port: int, model_roots: list[Path] | None, log_level: str, wanted: list[int]
) -> str:
    """Start everything and wait until it answers, or until somebody wants it to stop; return the URL."""
    started = time.monotonic()
    url = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
    service.logs.mkdir(exist_ok=True)
    (service.data / "blobs").mkdir(exist_ok=True)
    os.environ.setdefault("SOUL_BLOBS_URL", (service.data / "blobs").as_uri())
    os.environ.setdefault("SOUL_SCRATCH_DIR", str(service.data / "scratch"))
    os.environ.setdefault("SOUL_GRACE_SECONDS", str(WORKER_STOP_SECONDS - 1.5))
    os.environ.update(SOUL_LOG_LEVEL=log_level, C_FORCE_ROOT="1")
    os.environ["SOUL_MODEL_ROOTS"] = _model_roots(host, model_roots)
    service.start_servers()
    # API and worker import for a second or two: meanwhile the schema is brought up to date.
    api = ["uvicorn", "api.main:create_app", "--factory", "--host", host, "--port", str(port)]
    api += ["--timeout-graceful-shutdown", "2", "--no-access-log", "--log-level", log_level]
    server = service.start_child("api", *api)
    worker = ["celery", "-A", "worker.celery_app", "worker", "--concurrency", "1", "--loglevel", log_level]
    service.start_child("worker", *worker, "--without-gossip", "--without-mingle", "--without-heartbeat")
    key = _prepare_database()
    _write_connection(service.data, url, key)  # at once: should something fail below, the key must not be lost
    service.start_child("keeper", "worker.maintenance")
    while not wanted and not _is_ready(url):
        if server.process is not None and server.process.poll() is not None:
            raise ServiceStartError(f"the API did not start: {read_last_line(server.log)} (log: {server.log})")
        if time.monotonic() - started > READY_SECONDS:
            raise ServiceStartError(
                f"the API did not answer within {READY_SECONDS:.0f} s; its log: {service.logs / 'api.log'}"
            )
        time.sleep(0.05)
    if wanted:
        return url
    _say(f"SOUL is ready after {time.monotonic() - started:.1f} s")
    _say(f"  API       {url}")
    _say(f"  docs      {url}/docs")
    _say(f"  data      {service.data} (logs in {service.logs.name}/)")
    if key is not None:
        _say(f"  API key   {key}")
        _say(f"            the admin's, shown only now; `soul` finds it in {service.data / CONNECTION_FILE}")
    else:
        _say(f"  API key   the admin's is in {service.data / CONNECTION_FILE}")
    return url


def _prepare_database() -> str | None:
    """Migrate; on the first start make the admin key and return it."""
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


def _model_roots(host: str, named: list[Path] | None) -> str:
    """Return the folders whose models may be registered by path: any only while nobody else can reach the API."""
    if named:
        return os.pathsep.join(str(root.absolute()) for root in named)
    return os.environ.get("SOUL_MODEL_ROOTS", "/" if _is_loopback(host) else "")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_port(host: str, port: int) -> None:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ServiceStartError(
            f"cannot listen on {host}:{port} ({error.strerror}); "
            "stop what listens there, or take another port (--port 0 picks a free one)"
        ) from error


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:  # noqa: S310  our own http URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _write_connection(data: Path, url: str, key: str | None) -> None:
    """Tell `soul` on this machine where the service is; the key of the first start stays in the file."""
    path = data / CONNECTION_FILE
    kept = None
    if path.exists():
        kept = json.loads(path.read_text()).get("api_key")
    beside = path.with_suffix(".partial")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        json.dump({"url": url, "api_key": key or kept, "pid": os.getpid()}, out)
    beside.replace(path)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Hold the data folder: two services on one would ruin it. The kernel frees it, however we end."""
    lock: IO[str]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise ServiceStartError(
            f"cannot write to {folder} ({error.strerror}); choose another folder: --data FOLDER"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceStartError(
                f"another soul serve runs on {folder}; stop it, or choose another folder: --data FOLDER"
            ) from None
        yield


@contextmanager
def _signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM; the first ends the waiting, a second while stopping changes nothing."""
    wanted: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        wanted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield wanted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  the terminal is this command's surface
