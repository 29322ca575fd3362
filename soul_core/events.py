"""What a run tells the world while it runs, and how the world stops it. Torch-free.

The engine child writes one JSON object a line on stdout; the worker's supervisor reads the same class back.
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
    """What the outside wants of a run. INTERRUPT keeps a checkpoint, CANCEL keeps nothing."""

    NONE = "none"
    INTERRUPT = "interrupt"
    CANCEL = "cancel"


class Event(BaseModel):
    """One thing that happened.

    `data` by kind: phase {phase, detail?}; progress {phase, done, total, unit, eta_seconds?};
    metrics {step, <curve>: float}; checkpoint {step}; warning|log {message}; finished {verdict};
    failed {code, message, details}. Never a row of a data set: forget sets are personal data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: EventKind
    at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    data: dict[str, Any] = Field(default_factory=dict)


class Listener(Protocol):
    """What `run()` needs of its surroundings."""

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Tell one event. Must not raise."""

    def stop_request(self) -> StopRequest:
        """Say whether the run should stop; asked between steps and between batches of evaluation."""


class JsonLinesListener:
    """The engine child's listener: events on a stream, wishes set by signal handlers (see `__main__`)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._wish = StopRequest.NONE

    def emit(self, kind: EventKind, **data: Any) -> None:
        line = json.dumps(Event(kind=kind, data=data).model_dump(mode="json"), allow_nan=False, default=str)
        self._stream.write(line + "\n")
        self._stream.flush()

    def stop_request(self) -> StopRequest:
        return self._wish

    def request_stop(self, wish: StopRequest) -> None:
        """Set the wish. A cancel is never softened into an interrupt."""
        if self._wish is not StopRequest.CANCEL:
            self._wish = wish


class SilentListener:
    """Hears nothing, wants nothing: for tests and for the library user who only wants the report."""

    def emit(self, kind: EventKind, **data: Any) -> None:
        pass

    def stop_request(self) -> StopRequest:
        return StopRequest.NONE


def raise_if_stop_requested(listener: Listener) -> None:
    """Raise what was wished. For places where nothing need be saved first."""
    wish = listener.stop_request()
    if wish is StopRequest.CANCEL:
        raise RunCancelledError("the run was cancelled")
    if wish is StopRequest.INTERRUPT:
        raise RunInterruptedError("the run was interrupted; it goes on from its state when started again")
