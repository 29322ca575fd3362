"""The events of an attack: progress is counted in attacks; curves of a training inside an attack are dropped."""

import time
from typing import Any

from soul_core.events import EventKind, Listener, StopRequest


class AttackProgress:
    """The listener of the attacks on one model."""

    def __init__(self, listener: Listener, *, model_name: str, num_attacks: int) -> None:
        self._listener, self._model, self._num_attacks = listener, model_name, num_attacks
        self._num_done, self._num_timed, self._timed_seconds = 0, 0, 0.0
        self._label, self._started_at = "", time.monotonic()

    def begin(self, label: str) -> None:
        """Announce the next attack."""
        self._label, self._started_at = label, time.monotonic()
        self._listener.emit("phase", phase="attack", detail=label, model=self._model)
        self._emit_progress(seconds_left=None)

    def finish(self, *, seconds: float | None) -> None:
        """Count an attack.

        Args:
            seconds: How long it ran, in this attempt or an earlier one, from which the time of the next attacks is
                estimated; None if it could not run.
        """
        self._num_done += 1
        if seconds is not None:
            self._num_timed, self._timed_seconds = self._num_timed + 1, self._timed_seconds + seconds
        if self._num_done == self._num_attacks:
            self._emit_progress(seconds_left=0.0)

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Pass an event on, with the attack and the model in messages."""
        if kind == "progress":
            self._emit_progress(seconds_left=data.get("eta_seconds"))
        elif kind in {"warning", "log"}:
            self._listener.emit(kind, **{**data, "message": f"{self._label} on {self._model}: {data.get('message')}"})
        elif kind not in {"metrics", "checkpoint"}:
            self._listener.emit(kind, **data)

    def stop_request(self) -> StopRequest:
        """Return the stop request of the run."""
        return self._listener.stop_request()

    def _emit_progress(self, *, seconds_left: float | None) -> None:
        """Emit the number of finished attacks and an estimate of the time left.

        Args:
            seconds_left: Of the running attack, if known.
        """
        num_left = self._num_attacks - self._num_done
        this_attack = None if seconds_left is None else time.monotonic() - self._started_at + seconds_left
        usual = self._timed_seconds / self._num_timed if self._num_timed else this_attack
        eta = None
        if not num_left:
            eta = 0.0
        elif usual is not None:
            eta = (usual if seconds_left is None else seconds_left) + usual * (num_left - 1)
        self._listener.emit(
            "progress",
            phase="attack",
            detail=self._label,
            model=self._model,
            done=self._num_done,
            total=self._num_attacks,
            unit="attacks",
            eta_seconds=None if eta is None else round(eta, 1),
        )
