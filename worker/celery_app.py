"""The Celery app (`celery -A worker.celery_app worker`): logging, process lifetime, drain and periodic cleanup."""

import os
import subprocess
import sys
from typing import Any

from celery import Celery, bootsteps
from celery.signals import setup_logging, worker_init, worker_process_init, worker_shutdown, worker_shutting_down

from soul_core.log_config import configure_logging
from soul_core.parent_death import die_with_parent
from soul_store.settings import get_settings
from worker import drain

#: The first cleanup waits until the worker has started.
_FIRST_CLEANUP_SECONDS, _CLEANUP_SECONDS = 5, 300

app = Celery("soul")
app.config_from_object("worker.celery_config")


def send_task(name: str, payload: dict[str, Any]) -> None:
    """Send a message to the workers: the task's name and its arguments."""
    app.send_task(name, kwargs=payload)


class CleanupStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Runs `worker.cleanup` periodically as a child process.

    The worker's main process must not wait for it, nor hold a connection that its pool children would inherit.
    """

    requires = frozenset({"celery.worker.components:Timer"})

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, parent: Any) -> None:
        parent.timer.call_after(_FIRST_CLEANUP_SECONDS, self._start_cleanup)
        parent.timer.call_repeatedly(_CLEANUP_SECONDS, self._start_cleanup)

    def _start_cleanup(self) -> None:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen([sys.executable, "-m", "worker.cleanup"])


app.steps["worker"].add(CleanupStep)


@setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)


@worker_init.connect
def _clear_stale_drain(**_: Any) -> None:
    drain.clear()


@worker_process_init.connect
def _die_with_main_process(**_: Any) -> None:
    die_with_parent(os.getppid())


@worker_shutting_down.connect
def _begin_drain(**_: Any) -> None:
    drain.begin()


@worker_shutdown.connect
def _end_drain(**_: Any) -> None:
    drain.clear()
