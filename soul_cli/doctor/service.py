"""Checks of the service: its API, database, schema, workers, clock, broker and files."""

import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import uuid4

from soul_cli.connection import find_connection
from soul_cli.doctor.check import Diagnosis, report_error, report_ok, report_skipped, report_warning
from soul_cli.embedded.account import Account
from soul_cli.embedded.errors import ServiceStartError
from soul_cli.embedded.ports import check_port
from soul_cli.embedded.postgres import Postgres
from soul_cli.embedded.service import find_home
from soul_cli.errors import BadInput

_MAX_SKEW_SECONDS = 5.0
_NO_SERVICE = "no service runs on this data folder"
_START = "start `soul serve`, or set SOUL_DATABASE_URL, SOUL_REDIS_URL and SOUL_BLOBS_URL to check a fleet"


def list_service_checks(data: Path, port: int) -> list[tuple[str, Callable[[], Diagnosis]]]:
    """Return the checks by name, of the fleet that the environment names or of the embedded service that runs."""
    is_known = set_up_environment(data)
    needed = {"database": check_database, "workers": check_workers, "clock": check_clock}
    needed |= {"broker": check_broker, "file store": check_file_store}
    checks: list[tuple[str, Callable[[], Diagnosis]]] = [("API", partial(check_api, data, port))]
    for name, check in needed.items():
        checks.append((name, check if is_known else partial(report_skipped, name, _NO_SERVICE, _START)))
    return checks


def set_up_environment(data: Path) -> bool:
    """Set the settings of the embedded service that runs, unless the environment has others. Return whether any is."""
    if "SOUL_DATABASE_URL" in os.environ or "SOUL_DATABASE_URL_FILE" in os.environ:
        return True
    try:
        account = Account.choose()
        home = find_home(data, account)
        postgres = Postgres(home, runtime=home / "run", log=data / "logs" / "postgres.log", account=account)
    except ServiceStartError:
        return False
    socket = postgres.find_running_socket()
    if socket is None:
        return False
    os.environ["SOUL_DATABASE_URL"] = f"postgresql+psycopg://soul@/soul?host={socket}"
    os.environ.setdefault("SOUL_REDIS_URL", f"redis+socket://{socket}/valkey.sock?virtual_host=0")
    os.environ.setdefault("SOUL_BLOBS_URL", (data / "blobs").as_uri())
    return True


def check_api(data: Path, port: int) -> Diagnosis:
    """Check that the API is alive and ready, or that its port is free."""
    try:
        url = find_connection(data=data).url.rstrip("/")
    except BadInput:
        url = f"http://127.0.0.1:{port}"
    started_at = time.monotonic()
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5):  # noqa: S310 (the user's own server)
            return report_ok("API", f"{url} is ready ({(time.monotonic() - started_at) * 1000:.0f} ms)")
    except urllib.error.HTTPError as error:
        detail = error.read(2000).decode(errors="replace")
        remedy = "see the lines of the database, the broker and the workers"
        return report_error("API", f"{url} is not ready ({error.code}): {detail[:200]}", remedy)
    except (urllib.error.URLError, OSError):
        pass
    try:
        check_port("127.0.0.1", port)
    except ServiceStartError as error:
        return report_error("API", f"no service answers at {url}", str(error))
    return report_warning("API", f"no service answers at {url}; port {port} is free", "start it: `soul serve`")


def check_database() -> Diagnosis:
    """Check that the database answers, and that its schema is the one of this version."""
    from sqlalchemy.exc import SQLAlchemyError

    from migrations.run import read_revisions
    from soul_store.settings import get_settings

    try:
        current, newest = read_revisions(get_settings().database_url)
    except SQLAlchemyError as error:
        reason = str(error).splitlines()[0][:200]
        return report_error("database", f"it cannot be reached: {reason}", "start it, or correct SOUL_DATABASE_URL")
    if current is None:
        return report_error("database", "it has no schema", "python -m migrations.run")
    if current != newest:
        remedy = "python -m migrations.run, or install the version of SOUL that the schema belongs to"
        return report_error("database", f"schema {current}, but this version needs {newest}", remedy)
    return report_ok("database", f"reached; schema {current} is current")


def check_workers() -> Diagnosis:
    """Check that a worker has reported, and what waits for it."""
    from soul_store.service_metrics import read_statistics

    statistics = read_statistics()
    num_workers, num_due = statistics["workers"], statistics["due"]
    detail = f"{num_workers} machines with workers reported lately; {num_due} jobs could run now"
    if num_workers == 0:
        return report_error("workers", detail, "start a worker: `celery -A worker.celery_app worker --concurrency 1`")
    if (statistics["outbox_age"] or 0) > 30:
        remedy = "see the log of the maintenance process: `python -m worker.maintenance`"
        return report_error("workers", f"{detail}; messages wait {statistics['outbox_age']:.0f} s", remedy)
    return report_ok("workers", detail)


def check_clock() -> Diagnosis:
    """Check that this machine's clock is that of the database."""
    from soul_store.database import measure_clock_skew

    skew_seconds = measure_clock_skew()
    detail = f"{abs(skew_seconds):.3f} s {'after' if skew_seconds >= 0 else 'before'} the database's clock"
    if abs(skew_seconds) > _MAX_SKEW_SECONDS:
        remedy = "synchronize the clocks (NTP): leases are safe, but times in logs and expiries of keys are not"
        return report_warning("clock", detail, remedy)
    return report_ok("clock", detail)


def check_broker() -> Diagnosis:
    """Check that the broker answers, and count the messages that wait in it."""
    from redis.exceptions import RedisError

    from soul_store.outbox import count_waiting_messages, make_broker_client

    try:
        with make_broker_client() as client:
            num_messages = count_waiting_messages(client)
    except (RedisError, OSError) as error:
        return report_error("broker", f"it cannot be reached: {error}"[:200], "start it, or correct SOUL_REDIS_URL")
    return report_ok("broker", f"reached; {num_messages} messages wait")


def check_file_store() -> Diagnosis:
    """Check that a file can be stored, read and removed."""
    import tempfile

    from soul_store.blobs import get_blob_store

    store, key, content = get_blob_store(), f"doctor/{uuid4().hex}", b"soul doctor"
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        try:
            store.put_file(key, Path(file.name))
            with store.open(key) as stored:
                is_equal = stored.read() == content
        except Exception as error:
            detail = f"a file cannot be stored: {type(error).__name__}: {error}"[:200]
            return report_error("file store", detail, "correct SOUL_BLOBS_URL, its permissions or its free space")
        finally:
            store.delete_prefix("doctor")
    if not is_equal:
        return report_error(
            "file store", "a file that was stored reads differently", "check the disk or the object store"
        )
    return report_ok("file store", "a file was stored, read and removed")
