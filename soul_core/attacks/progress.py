"""What the world hears of an attack: progress counted in attacks, no curves of a training inside one."""

import time
from typing import Any

from soul_core.events import EventKind, Listener, StopRequest


class AttackProgress:
    """The listener of the attacks on one model."""

    def __init__(self, listener: Listener, *, model_name: str, num_attacks: int) -> None:
        self._listener, self._model, self._total = listener, model_name, num_attacks
        self._done, self._timed, self._seconds = 0, 0, 0.0
        self._label, self._began = "", time.monotonic()

    def begin(self, label: str) -> None:
        """Announce the next attack."""
        self._label, self._began = label, time.monotonic()
        self._listener.emit("phase", phase="attack", detail=label, model=self._model)
        self._progress(left=None)

    def finish(self, *, seconds: float | None) -> None:
        """Count an attack; the time of one that really ran, also in an earlier attempt, foretells the next ones'."""
        self._done += 1
        if seconds is not None:
            self._timed, self._seconds = self._timed + 1, self._seconds + seconds
        if self._done == self._total:
            self._progress(left=0.0)

    def emit(self, kind: EventKind, **data: Any) -> None:
        if kind == "progress":
            self._progress(left=data.get("eta_seconds"))
        elif kind in {"warning", "log"}:
            self._listener.emit(kind, **{**data, "message": f"{self._label} on {self._model}: {data.get('message')}"})
        elif kind not in {"metrics", "checkpoint"}:
            self._listener.emit(kind, **data)

    def stop_request(self) -> StopRequest:
        return self._listener.stop_request()

    def _progress(self, *, left: float | None) -> None:
        """Tell how far it is. `left`: seconds of what is under way, where that is known."""
        waiting = self._total - self._done
        this_one = None if left is None else time.monotonic() - self._began + left
        usual = self._seconds / self._timed if self._timed else this_one
        eta = None
        if not waiting:
            eta = 0.0
        elif usual is not None:
            eta = (usual if left is None else left) + usual * (waiting - 1)
        self._listener.emit(
            "progress",
            phase="attack",
            detail=self._label,
            model=self._model,
            done=self._done,
            total=self._total,
            unit="attacks",
            eta_seconds=None if eta is None else round(eta, 1),
        )
