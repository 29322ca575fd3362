"""`celery -A worker.celery_app worker`: logging, a pool child that dies with its parent, and the drain signal."""

import logging
import os
import subprocess
import sys
from typing import Any

from celery import bootsteps
from celery.signals import setup_logging, worker_init, worker_process_init, worker_shutdown, worker_shutting_down

import worker.tasks  # noqa: F401  registers run_job
from soul_core.parent_death import die_with_parent
from soul_store.outbox import get_celery_app
from soul_store.settings import get_settings
from worker import drain

#: Not while everything else starts; and then now and again.
_FIRST_SWEEP_SECONDS, _SWEEP_SECONDS = 5, 300

app = get_celery_app()


class CleanupStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Sweeps this machine's scratch folder after the start and every so often, in a process of its own: the main
    process must not wait, nor hold a connection that its pool children would inherit.
    """

    requires = frozenset({"celery.worker.components:Timer"})

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._sweeper: subprocess.Popen[bytes] | None = None

    def start(self, parent: Any) -> None:
        parent.timer.call_after(_FIRST_SWEEP_SECONDS, self._sweep)
        parent.timer.call_repeatedly(_SWEEP_SECONDS, self._sweep)

    def _sweep(self) -> None:
        if self._sweeper is None or self._sweeper.poll() is not None:
            self._sweeper = subprocess.Popen([sys.executable, "-m", "worker.cleanup"])


app.steps["worker"].add(CleanupStep)


@setup_logging.connect
def _log_plainly(**_: Any) -> None:
    logging.basicConfig(
        level=get_settings().log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


@worker_init.connect
def _start(**_: Any) -> None:
    drain.clear()


@worker_process_init.connect
def _die_with_main_process(**_: Any) -> None:
    die_with_parent(os.getppid())


@worker_shutting_down.connect
def _leave(**_: Any) -> None:
    drain.begin()


@worker_shutdown.connect
def _left(**_: Any) -> None:
    drain.clear()
