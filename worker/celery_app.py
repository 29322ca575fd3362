"""The Celery app (`celery -A worker.celery_app worker`): logging, process lifetime, drain and periodic programs."""

import os
import subprocess
import sys
from typing import Any

from celery import Celery, bootsteps
from celery.exceptions import WorkerShutdown
from celery.signals import setup_logging, worker_init, worker_process_init, worker_shutdown, worker_shutting_down

from soul_core.log_config import configure_logging
from soul_core.parent_death import die_with_parent
from soul_store.settings import get_settings
from worker import drain

#: What a worker runs periodically. The first run waits until the worker has started.
_PERIODIC_MODULES = ("worker.registration", "worker.cleanup")
_FIRST_RUN_SECONDS, _PERIOD_SECONDS = 5, 300

app = Celery("soul")
app.config_from_object("worker.celery_config")


def send_task(name: str, payload: dict[str, Any]) -> None:
    """Send a message to the workers: the task's name and its arguments."""
    app.send_task(name, kwargs=payload)


class PeriodicStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Runs programs periodically as child processes.

    The worker's main process must not wait for them, nor hold a connection that its pool children would inherit.
    """

    requires = frozenset({"celery.worker.components:Timer"})

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, parent: Any) -> None:
        parent.timer.call_after(_FIRST_RUN_SECONDS, self._start_processes)
        parent.timer.call_repeatedly(_PERIOD_SECONDS, self._start_processes)

    def _start_processes(self) -> None:
        for module in _PERIODIC_MODULES:
            process = self._processes.get(module)
            if process is None or process.poll() is not None:
                self._processes[module] = subprocess.Popen([sys.executable, "-m", module])


app.steps["worker"].add(PeriodicStep)


@setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)


@worker_init.connect
def _clear_stale_drain(**_: Any) -> None:
    drain.clear()


@worker_init.connect
def _check_files(**_: Any) -> None:
    """Refuse to start with a bucket that cannot work. In a child process: an S3 client does not survive a fork."""
    if get_settings().blobs_url.startswith("s3:"):
        checked = subprocess.run([sys.executable, "-m", "soul_store.blobs.configured"], check=False)
        if checked.returncode != 0:
            raise WorkerShutdown(checked.returncode)


@worker_process_init.connect
def _die_with_main_process(**_: Any) -> None:
    die_with_parent(os.getppid())


@worker_shutting_down.connect
def _begin_drain(**_: Any) -> None:
    drain.begin()


@worker_shutdown.connect
def _end_drain(**_: Any) -> None:
    drain.clear()
