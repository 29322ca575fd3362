"""What outlives an interruption beside the trainer's checkpoint: whose state it is, when it began, seconds by phase."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from soul_core.atomic_io import write_atomically
from soul_core.errors import BadSpec
from soul_core.events import EventKind, Listener, Phase, StopRequest, raise_if_stop_requested

LOCK_NAME = "lock"
_RECORD = "run.json"


class RunState:
    """The state folder of one run. Also its listener: every checkpoint event brings the clock on disk up to date."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._listener = listener
        self._record: dict[str, Any] = {"started_at": datetime.now(UTC).isoformat(), "seconds": {}, "belongs_to": {}}
        self._phase, self._since = "", 0.0
        path = folder / _RECORD
        if path.exists():
            self._record = json.loads(path.read_text())

    @property
    def started_at(self) -> datetime:
        return datetime.fromisoformat(self._record["started_at"])

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Seconds of each phase over all attempts, the running one included."""
        self._count()
        return {phase: round(seconds, 3) for phase, seconds in self._record["seconds"].items()}

    def claim(self, identity: Mapping[str, str]) -> None:
        """Bind the folder to what decides a run's numbers. Raises BadSpec when it holds another run."""
        old = self._record["belongs_to"]
        if old and old != identity:
            other = sorted(key for key in old.keys() | identity.keys() if old.get(key) != identity.get(key))
            raise BadSpec(
                f"the state folder holds another run (other {', '.join(other)}); "
                "remove it to start anew, or name another one"
            )
        self._record["belongs_to"] = dict(identity)
        self._save()

    @contextmanager
    def phase(self, phase: Phase, *, detail: str | None = None) -> Iterator[None]:
        """Run one phase: announce it, stop first if that is wished, and count its seconds even when it ends badly."""
        raise_if_stop_requested(self._listener)
        self._listener.emit("phase", phase=phase, **({"detail": detail} if detail else {}))
        self._phase, self._since = phase, time.monotonic()
        try:
            yield
        finally:
            self._count()
            self._phase = ""
            if self._record["belongs_to"]:
                self._save()

    def emit(self, kind: EventKind, **data: Any) -> None:
        if kind == "checkpoint":
            self._count()
            self._save()
        self._listener.emit(kind, **data)

    def stop_request(self) -> StopRequest:
        return self._listener.stop_request()

    def discard(self) -> None:
        """Remove everything but the lock, which its holder still needs."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_NAME:
                path.unlink()

    def _count(self) -> None:
        if self._phase:
            now = time.monotonic()
            seconds = self._record["seconds"]
            seconds[self._phase] = seconds.get(self._phase, 0.0) + now - self._since
            self._since = now

    def _save(self) -> None:
        write_atomically(self.folder / _RECORD, json.dumps(self._record))
