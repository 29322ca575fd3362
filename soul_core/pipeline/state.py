"""The state folder of a run, by which it resumes: which run it belongs to, its start, the seconds of each phase."""

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from soul_core import tracing
from soul_core.atomic_io import write_atomically
from soul_core.errors import BadSpec
from soul_core.events import EventKind, Listener, Phase, StopRequest, raise_if_stop_requested

LOCK_NAME = "lock"
_RECORD_NAME = "run.json"
#: Raised when files in the folder change: a folder with another number is refused.
_FORMAT = 2


class RunState:
    """The state folder of one run, and the run's listener: every checkpoint event saves the seconds so far."""

    def __init__(self, folder: Path, listener: Listener) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._listener = listener
        self._record: dict[str, Any] = {
            "format": _FORMAT,
            "started_at": datetime.now(UTC).isoformat(),
            "seconds": {},
            "belongs_to": {},
        }
        self._phase, self._counted_at = "", 0.0
        path = folder / _RECORD_NAME
        if path.exists():
            self._record = json.loads(path.read_bytes())
            if self._record.get("format") != _FORMAT:
                raise BadSpec(
                    f"the state folder {folder} was written by another version of SOUL and cannot be resumed; remove "
                    "it to start again, or name another folder"
                )

    @property
    def started_at(self) -> datetime:
        """When the first attempt began."""
        return datetime.fromisoformat(self._record["started_at"])

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Seconds of each phase over all attempts, the running one included."""
        self._count_seconds()
        return {phase: round(seconds, 3) for phase, seconds in self._record["seconds"].items()}

    def claim(self, identity: Mapping[str, str]) -> None:
        """Bind the folder to what determines a run's numbers. Raises BadSpec if it holds another run."""
        saved = self._record["belongs_to"]
        if saved and saved != identity:
            different = sorted(key for key in saved.keys() | identity.keys() if saved.get(key) != identity.get(key))
            raise BadSpec(
                f"the state folder holds another run (other {', '.join(different)}); "
                "remove it to start again, or name another folder"
            )
        self._record["belongs_to"] = dict(identity)
        self._save()

    @contextmanager
    def phase(self, phase: Phase, *, detail: str | None = None) -> Iterator[None]:
        """Run one phase: check for a stop request, announce the phase, and count its seconds even if it fails."""
        raise_if_stop_requested(self._listener)
        self._listener.emit("phase", phase=phase, **({"detail": detail} if detail else {}))
        self._phase, self._counted_at = phase, time.monotonic()
        try:
            with tracing.span(f"phase {phase}"):
                yield
        finally:
            self._count_seconds()
            self._phase = ""
            if self._record["belongs_to"]:
                self._save()

    def emit(self, kind: EventKind, **data: Any) -> None:
        """Pass an event on."""
        if kind == "checkpoint":
            self._count_seconds()
            self._save()
        self._listener.emit(kind, **data)

    def stop_request(self) -> StopRequest:
        """Return the listener's stop request."""
        return self._listener.stop_request()

    def discard(self) -> None:
        """Remove everything except the lock file, which its holder still needs."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK_NAME:
                path.unlink()

    def _count_seconds(self) -> None:
        if self._phase:
            now = time.monotonic()
            seconds = self._record["seconds"]
            seconds[self._phase] = seconds.get(self._phase, 0.0) + now - self._counted_at
            self._counted_at = now

    def _save(self) -> None:
        write_atomically(self.folder / _RECORD_NAME, json.dumps(self._record))
