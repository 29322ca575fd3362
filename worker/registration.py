"""`python -m worker.registration`: reports a worker to the registry until it ends (`soul_store.workers`).

A child of the worker's main process, which must hold no connection that its pool children would inherit. It also wakes
the worker if a job waits that it can hold: the job's message may have woken one that cannot.
"""

import os
import platform
import signal
import sys
import threading
from importlib.metadata import PackageNotFoundError, version

import structlog
from kombu.exceptions import OperationalError as BrokerError
from redis.exceptions import RedisError

from soul_core.log_config import configure_logging
from soul_core.parent_death import die_with_parent
from soul_store import job_queue, workers
from soul_store.database import transaction
from soul_store.outbox import make_broker_client
from soul_store.placement import WorkerDevice
from soul_store.settings import get_settings
from worker import drain
from worker.celery_app import get_own_queue, wake_worker
from worker.db_retry import CONNECTION_ERRORS
from worker.device import get_device, get_worker_name
from worker.machine import compute_load

log = structlog.stdlib.get_logger(__name__)

_MAX_PERIOD_SECONDS = 5.0


def report(name: str, device: WorkerDevice) -> None:
    """Report the worker once, and wake it if a job waits that it can hold."""
    is_draining = drain.is_draining()
    with transaction() as session:
        workers.record(
            session,
            name=name,
            device=device,
            versions=_list_versions(),
            load=compute_load(),
            is_draining=is_draining,
        )
        job_id = None if is_draining else job_queue.find_waiting_job(session, worker=name, device=device)
    if job_id is None:
        return
    with make_broker_client() as client:
        is_awake = bool(client.llen(get_own_queue(name)))
    if not is_awake:
        wake_worker(name, job_id)


def main() -> int:
    """Report until SIGTERM, then leave the registry; retry while a server is unavailable."""
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)
    stop_requested = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop_requested.set())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at a terminal: the worker drains and is still reported
    main_pid = os.getppid()
    die_with_parent(main_pid)
    name, device = get_worker_name(main_pid), get_device()
    period = min(get_settings().lease_seconds / 3, _MAX_PERIOD_SECONDS)
    is_unavailable = False
    while True:
        try:
            report(name, device)
            is_unavailable = False
        except (*CONNECTION_ERRORS, BrokerError, RedisError) as error:
            if not is_unavailable:
                log.warning("the worker cannot report, a server is unavailable", error=type(error).__name__)
            is_unavailable = True
        if stop_requested.wait(period):
            break
    with transaction() as session:
        workers.remove(session, name)
    return 0


def _list_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name, package in {"soul": "soul-unlearning", "torch": "torch", "transformers": "transformers"}.items():
        try:
            versions[name] = version(package)
        except PackageNotFoundError:
            continue
    return versions


if __name__ == "__main__":
    sys.exit(main())
