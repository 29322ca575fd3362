"""The Celery app (`celery -A worker.celery_app worker`): logging, process lifetime, drain, GPU and child programs."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from functools import partial
from typing import Any, ClassVar

import structlog
from celery import Celery, bootsteps
from celery.exceptions import WorkerShutdown
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_init,
    worker_process_init,
    worker_shutdown,
    worker_shutting_down,
)
from kombu import Exchange, Queue

from soul_core import tracing
from soul_core.log_config import configure_logging
from soul_core.parent_death import die_with_parent, request_death_signal
from soul_store.job_state_machine import RUN_JOB_TASK
from soul_store.metrics import start_metrics_server
from soul_store.outbox import QUEUE
from soul_store.settings import get_settings
from worker import drain, liveness
from worker.device import NoFreeGpuError, get_worker_name, take_gpu
from worker.gpus import GpuLock

log = structlog.stdlib.get_logger(__name__)

#: The program that runs while the worker runs, and how often it is looked after.
_COMPANION_MODULE, _WATCH_SECONDS = "worker.registration", 5
#: What a worker runs periodically. The first run waits until the worker has started.
_PERIODIC_MODULE, _FIRST_RUN_SECONDS, _PERIOD_SECONDS = "worker.cleanup", 5, 300
_STOP_SECONDS = 3

#: Open for as long as the worker runs: closing one frees its GPU.
_held_locks: list[GpuLock | None] = []

app = Celery("soul")
app.config_from_object("worker.celery_config")


def send_task(name: str, payload: dict[str, Any]) -> None:
    """Send a message to the workers: the task's name and its arguments."""
    app.send_task(name, kwargs=payload)


def get_own_queue(worker: str) -> str:
    """Return the queue that only this worker reads."""
    return f"{QUEUE}.{worker}"


def wake_worker(worker: str, job_id: str) -> None:
    """Send a message to one worker, which then claims its next job."""
    app.send_task(RUN_JOB_TASK, kwargs={"job_id": job_id}, queue=_make_own_queue(worker))


def _make_own_queue(worker: str) -> Queue:
    # the nameless exchange needs no binding, which would outlive the worker
    return Queue(get_own_queue(worker), Exchange(""), routing_key=get_own_queue(worker))


class ChildrenStep(bootsteps.StartStopStep):  # type: ignore[misc]  # celery has no types
    """Runs programs as child processes: one all the time, one periodically.

    The worker's main process must not wait for them, nor hold a connection that its pool children would inherit.
    """

    requires = frozenset({"celery.worker.components:Timer"})
    processes: ClassVar[dict[str, subprocess.Popen[bytes]]] = {}

    def start(self, parent: Any) -> None:
        self._ensure(_COMPANION_MODULE)
        parent.timer.call_repeatedly(_WATCH_SECONDS, self._ensure, (_COMPANION_MODULE,))
        parent.timer.call_after(_FIRST_RUN_SECONDS, self._ensure, (_PERIODIC_MODULE,))
        parent.timer.call_repeatedly(_PERIOD_SECONDS, self._ensure, (_PERIODIC_MODULE,))
        liveness.report("worker")
        parent.timer.call_repeatedly(liveness.REPORT_SECONDS, liveness.report, ("worker",))

    def _ensure(self, module: str) -> None:
        """Start the program unless it runs."""
        process = self.processes.get(module)
        if process is None or process.poll() is not None:
            # before it has imported anything: the worker may be killed meanwhile
            die = partial(request_death_signal, signal.SIGKILL)
            self.processes[module] = subprocess.Popen([sys.executable, "-m", module], preexec_fn=die)  # noqa: PLW1509


app.steps["worker"].add(ChildrenStep)


@setup_logging.connect
def _configure_logging(**_: Any) -> None:
    configure_logging(level=get_settings().log_level, output_format=get_settings().log_format)


@worker_init.connect
def _prepare(**_: Any) -> None:
    drain.clear()
    try:
        _held_locks.append(take_gpu())
    except NoFreeGpuError as error:
        log.error("the worker does not start", reason=str(error))  # noqa: TRY400
        sys.exit(1)


@celeryd_after_setup.connect
def _read_own_queue(**_: Any) -> None:
    app.amqp.queues.select_add(_make_own_queue(get_worker_name(os.getpid())))


@worker_init.connect
def _check_files(**_: Any) -> None:
    """Refuse to start with a bucket that cannot work. In a child process: an S3 client does not survive a fork."""
    if get_settings().blobs_url.startswith("s3:"):
        checked = subprocess.run([sys.executable, "-m", "soul_store.blobs.configured"], check=False)
        if checked.returncode != 0:
            raise WorkerShutdown(checked.returncode)


@worker_process_init.connect
def _set_up_pool_child(**_: Any) -> None:
    die_with_parent(os.getppid())
    start_metrics_server(get_settings())
    tracing.start_tracing("soul-worker")


@worker_shutting_down.connect
def _begin_drain(**_: Any) -> None:
    drain.begin()


@worker_shutdown.connect
def _end(**_: Any) -> None:
    companion = ChildrenStep.processes.get(_COMPANION_MODULE)
    if companion is not None and companion.poll() is None:
        companion.terminate()  # it leaves the registry
        with suppress(subprocess.TimeoutExpired):
            companion.wait(_STOP_SECONDS)
    drain.clear()
    liveness.clear("worker")
