"""Runs the engine as a child process: reads its events and its log, and stops it by signals."""

import contextvars
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO

import structlog
from pydantic import TypeAdapter, ValidationError

from soul_core import tracing
from soul_core.events import Event
from soul_core.log_records import LogRecord, describe_exception
from soul_store import job_leases
from soul_store.database import transaction
from soul_store.job_leases import JobLease, StopCause
from worker.attempt_log import AttemptLog
from worker.db_retry import CONNECTION_ERRORS
from worker.heartbeat import Heartbeat

log = structlog.stdlib.get_logger(__name__)

ENGINE_COMMAND = (sys.executable, "-m", "soul_core")
#: Events and log lines are written together, this often.
_WRITE_SECONDS = 0.4
#: A longer line on stderr is read in pieces.
_MAX_LINE_CHARS = 16_000

#: What makes a training step on a CPU steady (measured; see docs/decisions).
CPU_ENVIRONMENT = {
    "OMP_WAIT_POLICY": "PASSIVE",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONUNBUFFERED": "1",
}

_ENGINE_LINE: TypeAdapter[Event | LogRecord] = TypeAdapter(Event | LogRecord)


@dataclass(frozen=True)
class EngineExit:
    """How the engine ended. `returncode` is negative for a signal, as in `subprocess`."""

    returncode: int
    checkpoint_requested: bool
    failed_event: Event | None
    seconds: float


def run_engine(
    arguments: Sequence[str],
    heartbeat: Heartbeat,
    attempt_log: AttemptLog,
    *,
    is_draining: Callable[[], bool],
    grace_seconds: float,
) -> EngineExit:
    """Run the engine until it ends. A stop cause or a drain stops it by a signal, and kills it after `grace_seconds`.

    Raises LeaseLostError, with the engine killed, when the job no longer runs under the heartbeat's lease.
    """
    started = time.monotonic()
    child = _start_engine(arguments)
    attempt_log.info("engine started", pid=child.pid, argv=child.args)
    readers = _PipeReaders(child, attempt_log)
    writer = _Writer(heartbeat.lease, attempt_log)
    stop = _StopSignal(child, grace_seconds)
    try:
        while child.poll() is None:
            time.sleep(_WRITE_SECONDS)
            heartbeat.raise_if_lease_lost()
            writer.write(readers.take_events())
            if heartbeat.stop_cause == StopCause.PAUSE or (heartbeat.stop_cause is None and is_draining()):
                stop.send(signal.SIGTERM)
            elif heartbeat.stop_cause is not None:
                stop.send(signal.SIGUSR1)
            if stop.is_overdue():
                attempt_log.warning("the engine did not stop in time and is killed", grace_seconds=grace_seconds)
                child.kill()
                child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise
    readers.join()
    seconds = time.monotonic() - started
    attempt_log.info("engine exited", exit=describe_exit(child.returncode), seconds=round(seconds, 3))
    while not writer.write(readers.take_events()) and not is_draining():
        time.sleep(_WRITE_SECONDS)
    return EngineExit(child.returncode, stop.sent is signal.SIGTERM, writer.failed_event, seconds)


def describe_exit(returncode: int) -> str:
    """Return an exit as "exit code 3" or "signal SIGKILL"."""
    return f"signal {signal.Signals(-returncode).name}" if returncode < 0 else f"exit code {returncode}"


def _start_engine(arguments: Sequence[str]) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*ENGINE_COMMAND, *arguments, "--events", "--parent-pid", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**CPU_ENVIRONMENT, **os.environ, **_make_trace_environment()},
        start_new_session=True,  # Ctrl-C at a terminal reaches the worker, which then stops the engine
    )


def _make_trace_environment() -> dict[str, str]:
    """Return the variable that makes the engine's spans children of the current one; nothing without a trace."""
    parent = tracing.get_trace_parent()
    return {} if parent is None else {tracing.PARENT_VARIABLE: parent}


class _PipeReaders:
    """Threads that read the child's pipes, so that neither process waits for the other."""

    def __init__(self, child: "subprocess.Popen[str]", attempt_log: AttemptLog) -> None:
        assert child.stdout is not None
        assert child.stderr is not None
        self._log = attempt_log
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=contextvars.copy_context().run, args=(read, pipe), daemon=True)
            for read, pipe in ((self._read_stdout, child.stdout), (self._read_stderr, child.stderr))
        ]
        for thread in self._threads:
            thread.start()

    def take_events(self) -> list[Event]:
        """Return the events read since the last call."""
        return [self._events.get_nowait() for _ in range(self._events.qsize())]

    def join(self) -> None:
        """Wait until the child's end of both pipes is closed and everything is read."""
        for thread in self._threads:
            thread.join()

    def _read_stdout(self, pipe: IO[str]) -> None:
        with pipe:
            for line in pipe:
                with _logged_errors():
                    self._take_line(line)

    def _take_line(self, line: str) -> None:
        try:
            message = _ENGINE_LINE.validate_json(line)
        except ValidationError:
            self._log.add_malformed_line(line)
            return
        if isinstance(message, Event):
            self._log.add_event(message)
            self._events.put(message)
        else:
            self._log.add_record(message)

    def _read_stderr(self, pipe: IO[str]) -> None:
        is_complete = True
        with pipe:
            while line := pipe.readline(_MAX_LINE_CHARS):
                with _logged_errors():
                    self._log.add_stderr_line(line, is_complete=is_complete)
                is_complete = line.endswith("\n")


@contextmanager
def _logged_errors() -> Iterator[None]:
    """Log an error instead of ending the thread: the engine would block on a pipe that no thread reads."""
    try:
        yield
    except Exception as error:
        log.error("a line of the engine could not be logged", exceptions=describe_exception(error))  # noqa: TRY400


@dataclass
class _Writer:
    """Writes events and log lines to the database in one transaction, in order."""

    lease: JobLease
    attempt_log: AttemptLog
    failed_event: Event | None = None
    pending: list[Event] = field(default_factory=list)
    is_waiting: bool = False

    def write(self, events: list[Event]) -> bool:
        """Write all that is new. Return False, and keep it for the next call, while the database is unavailable."""
        self.pending += events
        self.failed_event = next((event for event in events if event.kind == "failed"), self.failed_event)
        try:
            with transaction() as session:
                if self.pending:
                    job_leases.record_events(session, self.lease, self.pending)
                last_seq = self.attempt_log.write(session)
        except CONNECTION_ERRORS as error:
            if not self.is_waiting:
                log.warning("events wait, the database is unavailable", error=type(error).__name__)
            self.is_waiting = True
            return False
        self.attempt_log.confirm(last_seq)
        self.pending, self.is_waiting = [], False
        return True


@dataclass
class _StopSignal:
    """The first signal that asks the engine to stop, and its deadline."""

    child: "subprocess.Popen[str]"
    grace_seconds: float
    sent: signal.Signals | None = None
    sent_at: float = 0.0

    def send(self, number: signal.Signals) -> None:
        """Send the signal, unless one was sent before."""
        if self.sent is None:
            self.child.send_signal(number)
            self.sent, self.sent_at = number, time.monotonic()

    def is_overdue(self) -> bool:
        """Return whether the engine has ignored the signal for longer than its grace."""
        return self.sent is not None and time.monotonic() - self.sent_at > self.grace_seconds
