"""The events that a run emits, and the stop requests that it receives. Torch-free.

The engine process writes one JSON object per line to stdout; the worker's supervisor parses it into the same class.
"""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, Protocol, TextIO

from pydantic import BaseModel, ConfigDict, Field

from soul_core.errors import RunCancelledError, RunInterruptedError

Phase = Literal["load", "compare", "baseline", "unlearn", "finetune", "evaluate", "attack", "export"]
EventKind = Literal["phase", "progress", "metrics", "checkpoint", "warning", "log", "finished", "failed"]


class StopRequest(StrEnum):
    """A request to stop a run. INTERRUPT writes a checkpoint, CANCEL removes all files."""

    NONE = "none"
    INTERRUPT = "interrupt"
    CANCEL = "cancel"


class Event(BaseModel):
    """One event of a run.

    `data` by kind: phase {phase, detail?}; progress {phase, done, total, unit, eta_seconds?};
    metrics {step, <curve>: float}; checkpoint {step}; warning|log {message}; finished {verdict};
    failed {code, message, details}. Never a row of a data set: forget sets are personal data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: EventKind
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    data: dict[str, Any] = Field(default_factory=dict)


class Listener(Protocol):
    """Receives the events of a run and returns stop requests."""

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Receive one event. Must not raise."""

    def stop_request(self) -> StopRequest:
        """Return whether the run should stop; called between steps and between batches of evaluation."""


class JsonLinesListener:
    """The listener of an engine process: writes events to a stream; signal handlers set the stop request."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._stop_request = StopRequest.NONE

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Write one event as a line."""
        line = json.dumps(Event(kind=kind, data=data).model_dump(mode="json"), allow_nan=False, default=str)
        self._stream.write(line + "\n")
        self._stream.flush()

    def stop_request(self) -> StopRequest:
        return self._stop_request

    def request_stop(self, request: StopRequest) -> None:
        """Set the stop request. An interrupt does not replace a cancel."""
        if self._stop_request is not StopRequest.CANCEL:
            self._stop_request = request


class SilentListener:
    """Drops events and requests nothing: for tests, and for library users who need only the report."""

    def emit(self, kind: EventKind, **data: Any) -> None:
        pass

    def stop_request(self) -> StopRequest:
        return StopRequest.NONE


def raise_if_stop_requested(listener: Listener) -> None:
    """Raise RunCancelledError or RunInterruptedError if requested. For places where nothing must be saved first."""
    request = listener.stop_request()
    if request is StopRequest.CANCEL:
        raise RunCancelledError("the run was cancelled")
    if request is StopRequest.INTERRUPT:
        raise RunInterruptedError("the run was interrupted; the same command resumes it")
