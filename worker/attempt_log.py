"""The log of one attempt: every line goes to the operator's log and, within limits, to the job's own.

The job's owner reads the latter (`soul logs JOB`), so no line of it may quote the uploaded texts.
"""

import json
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.orm import Session

from soul_core.errors import RunCancelledError, RunInterruptedError
from soul_core.events import Event
from soul_core.log_records import LogLevel, LogRecord
from soul_store import job_logs
from soul_store.job_leases import JobLease
from soul_store.job_logs import LogLine
from worker.subject_texts import SubjectTexts

log = structlog.stdlib.get_logger(__name__)

#: Longer messages are cut and larger fields left out: one line must not use up the space of the others.
_MAX_MESSAGE_CHARS, _MAX_FIELDS_CHARS = 4_000, 32_000
_EVENT_MESSAGES = {"phase": "phase begins", "checkpoint": "checkpoint written", "finished": "run finished"}
#: Codes of runs that failed because they were asked to stop.
_REQUESTED_ENDS = frozenset({RunCancelledError.code, RunInterruptedError.code})
#: Kinds of event that would outnumber all others.
_SKIPPED_EVENT_KINDS = frozenset({"progress", "metrics"})


@dataclass(frozen=True)
class LogLimits:
    """The size of an attempt's log: its first lines up to one half, its last lines up to the other."""

    max_lines: int
    max_bytes: int


class AttemptLog:
    """Numbers the lines of an attempt, and writes them to the database with the supervisor's other writes.

    Any thread may add lines; one thread writes them.
    """

    def __init__(self, lease: JobLease, limits: LogLimits, *, last_seq: int) -> None:
        self._lease = lease
        self._texts = SubjectTexts()
        self._max_lines, self._max_bytes = limits.max_lines // 2, limits.max_bytes // 2  # of each half
        self._lock = threading.Lock()
        self._seq = last_seq
        self._unwritten: dict[int, LogLine] = {}
        self._num_first_lines = self._num_first_bytes = 0
        self._first_end: int | None = None  # number of the last line of the first half, once that is full
        self._last_lines: deque[tuple[int, int]] = deque()  # numbers and sizes of the second half
        self._num_last_bytes = 0

    def set_text_files(self, paths: Sequence[Path]) -> None:
        """Name the files of the uploaded texts, before an engine reads them."""
        self._texts.set_files(paths)

    def info(self, message: str, **fields: Any) -> None:
        """Add a message of the worker."""
        self._add("info", message, source="worker", **fields)

    def warning(self, message: str, **fields: Any) -> None:
        """Add a warning of the worker."""
        self._add("warning", message, source="worker", **fields)

    def error(self, message: str, **fields: Any) -> None:
        """Add an error of the worker."""
        self._add("error", message, source="worker", **fields)

    def add_event(self, event: Event) -> None:
        """Add an event of the engine, so that the log shows the run in order."""
        if event.kind in _SKIPPED_EVENT_KINDS:
            return
        level: LogLevel = "warning" if event.kind == "warning" else "info"
        if event.kind == "failed" and event.data["code"] not in _REQUESTED_ENDS:
            level = "error"
        fields = {name: value for name, value in event.data.items() if name != "message"}
        message = event.data.get("message") or _EVENT_MESSAGES.get(event.kind, event.kind)
        self._add(level, message, at=event.at, source="engine", **fields)

    def add_record(self, record: LogRecord) -> None:
        """Add a log record of the engine, a library's without its message if that may quote the uploaded texts."""
        message = self._texts.withhold_quotes(record.message) if record.is_from_library else record.message
        ids = {"job_id", "attempt", "request_id"}  # every line has them
        fields = {name: value for name, value in record.fields.items() if name not in ids}
        source = record.logger if record.is_from_library else "engine"
        self._add(record.level, message, at=record.at, source=source, **fields)

    def add_stderr_line(self, line: str, *, is_complete: bool = True) -> None:
        """Add a line that a library wrote to the engine's stderr, withheld if it may quote the uploaded texts.

        The rest of a longer line (`is_complete=False`) may begin within a word, so it is withheld in any case.
        """
        line = line.rstrip()
        if line:
            note = f"(withheld: {len(line)} further characters of that line)"
            self._add("warning", self._texts.withhold_quotes(line) if is_complete else note, source="stderr")

    def add_malformed_line(self, line: str) -> None:
        """Add a line of the engine's event stream that is neither an event nor a record.

        The interpreter writes stack frames there when it crashes. A record cut by a crash may quote the uploaded texts.
        """
        line = line.rstrip()
        if line:
            note = "(withheld: an incomplete record)"
            self._add("error", note if line.startswith("{") else line, source="engine")

    def write(self, session: Session) -> int:
        """Write the new lines. Return the number to `confirm` once the transaction is committed."""
        with self._lock:
            lines, seq = list(self._unwritten.values()), self._seq
            left_out = range(0)
            if self._first_end is not None and self._last_lines:
                left_out = range(self._first_end + 1, self._last_lines[0][0])
        if lines:
            job_logs.append(session, self._lease, lines, left_out=left_out)
        return seq

    def confirm(self, seq: int) -> None:
        """Drop the lines up to this number from memory: they are stored."""
        with self._lock:
            self._unwritten = {number: line for number, line in self._unwritten.items() if number > seq}

    def _add(self, level: LogLevel, message: str, *, at: datetime | None = None, **fields: Any) -> None:
        log.log(logging.getLevelNamesMapping()[level.upper()], message, **fields)
        text = json.dumps(fields, default=str)
        if len(text) > _MAX_FIELDS_CHARS:
            text = json.dumps({"source": fields["source"], "fields_left_out": f"{len(text)} characters"})
        # PostgreSQL stores every character but NUL
        message = message[:_MAX_MESSAGE_CHARS].replace("\0", "\N{REPLACEMENT CHARACTER}")
        data = json.loads(text.replace(r"\u0000", "\N{REPLACEMENT CHARACTER}"))
        with self._lock:
            self._seq += 1
            self._unwritten[self._seq] = LogLine(
                self._seq, self._lease.epoch, at or datetime.now(UTC), level, message, data
            )
            self._leave_out_middle(len(message.encode()) + len(text))

    def _leave_out_middle(self, num_bytes: int) -> None:
        """Count the newest line, of this size, and leave out older ones of the second half beyond the limits."""
        if self._first_end is None:
            self._num_first_lines += 1
            self._num_first_bytes += num_bytes
            if self._num_first_lines >= self._max_lines or self._num_first_bytes >= self._max_bytes:
                self._first_end = self._seq
            return
        self._last_lines.append((self._seq, num_bytes))
        self._num_last_bytes += num_bytes
        while len(self._last_lines) > 1 and (
            len(self._last_lines) > self._max_lines or self._num_last_bytes > self._max_bytes
        ):
            number, size = self._last_lines.popleft()
            self._num_last_bytes -= size
            self._unwritten.pop(number, None)
