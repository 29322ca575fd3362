"""The engine's child process: its events in, wishes out by signal, grace, kill. Its end never ends the worker."""

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import ValidationError

from soul_core.events import Event
from soul_store import job_leases
from soul_store.database import transaction
from worker.db_retry import CONNECTION_ERRORS
from worker.heartbeat import Heartbeat

log = logging.getLogger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "soul_core")
#: Events are written together, this often.
_WRITE_SECONDS = 0.4
_STDERR_LINES = 40

#: What makes a training step on a CPU steady (measured; see docs/decisions).
CPU_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class EngineExit:
    """How the child ended. `returncode` as subprocess has it: negative is a signal."""

    returncode: int
    drain_requested: bool
    failed_event: Event | None
    finished_event: Event | None
    stderr_tail: tuple[str, ...]
    seconds: float


@dataclass
class _Ears:
    """Threads that read the child's pipes, so that a silent child never blocks us nor we a talkative one."""

    events: "queue.Queue[Event]" = field(default_factory=queue.Queue)
    stderr: "deque[str]" = field(default_factory=lambda: deque(maxlen=_STDERR_LINES))

    def listen(self, child: "subprocess.Popen[str]") -> list[threading.Thread]:
        assert child.stdout is not None
        assert child.stderr is not None
        threads = [
            threading.Thread(target=self._hear_events, args=(child.stdout,), daemon=True),
            threading.Thread(target=self._hear_errors, args=(child.stderr,), daemon=True),
        ]
        for thread in threads:
            thread.start()
        return threads

    def _hear_events(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                try:
                    self.events.put(Event.model_validate_json(line))
                except ValidationError:
                    log.warning("the engine wrote a line that is no event")

    def _hear_errors(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                self.stderr.append(line.rstrip())
                sys.stderr.write(line)


def run_engine(
    arguments: Sequence[str],
    heartbeat: Heartbeat,
    *,
    log_folder: Path,
    is_draining: Callable[[], bool],
    grace_seconds: float,
    engine_command: Sequence[str] = ENGINE_COMMAND,
) -> EngineExit:
    """Run the engine to its end, whatever that is. A lost lease kills it; a drain or a cancel asks first."""
    log_folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    child = subprocess.Popen(
        [*engine_command, *arguments, "--events", "--parent-pid", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**CPU_ENVIRONMENT, **os.environ},
        start_new_session=True,  # a Ctrl-C at the terminal is the supervisor's to hand on
    )
    ears = _Ears()
    threads = ears.listen(child)
    told: list[Event] = []
    asked_at: float | None = None
    asked_to_leave = False
    waiting: list[Event] = []
    try:
        while child.poll() is None:
            time.sleep(_WRITE_SECONDS)
            waiting = _write(heartbeat, told, waiting + _drained(ears.events), again=bool(waiting))
            if heartbeat.is_lease_lost:
                child.kill()
            elif asked_at is None and heartbeat.requested_action == "cancel":
                child.send_signal(signal.SIGUSR1)
                asked_at = time.monotonic()
            elif asked_at is None and is_draining():
                child.send_signal(signal.SIGTERM)
                asked_at, asked_to_leave = time.monotonic(), True
            elif asked_at is not None and time.monotonic() - asked_at > grace_seconds:
                log.warning("%s: the engine did not stop within %s s and is killed", heartbeat.job_id, grace_seconds)
                child.kill()
    except BaseException:
        child.kill()  # nobody would hear it any more
        child.wait()
        raise
    for thread in threads:
        thread.join()
    waiting += _drained(ears.events)
    while (waiting := _write(heartbeat, told, waiting, again=True)) and not is_draining():
        time.sleep(_WRITE_SECONDS)
    return EngineExit(
        returncode=child.returncode,
        drain_requested=asked_to_leave,
        failed_event=next((event for event in reversed(told) if event.kind == "failed"), None),
        finished_event=next((event for event in reversed(told) if event.kind == "finished"), None),
        stderr_tail=tuple(ears.stderr),
        seconds=time.monotonic() - started,
    )


def _drained(events: "queue.Queue[Event]") -> list[Event]:
    drained = []
    while True:
        try:
            drained.append(events.get_nowait())
        except queue.Empty:
            return drained


def _write(heart: Heartbeat, told: list[Event], events: list[Event], *, again: bool) -> list[Event]:
    """Write events to the job's rows; return those that could not be written yet. `again`: that was told before."""
    if not events or heart.is_lease_lost:
        return []
    try:
        with transaction() as session:
            held = job_leases.record_events(session, heart.job_id, heart.epoch, events)
    except CONNECTION_ERRORS as error:
        if not again:
            log.warning("%s: events wait, the database does not answer (%s)", heart.job_id, type(error).__name__)
        return events
    heart.is_lease_lost = heart.is_lease_lost or not held
    told += events
    return []
