"""Files of a job onto disk: partial ones resumed by Range, every sha256 checked, renamed only when whole."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import httpx

from soul_cli.errors import BadInput, DamagedDownload, ServerUnreachable
from soul_cli.resources import Artifact
from soul_cli.transport import Transport

DownloadProgressCallback = Callable[[Artifact, int], None]  # called with the file and the bytes of it that are on disk


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """What was done for one file."""

    path: Path
    how: Literal["downloaded", "resumed", "already there"]
    size_bytes: int
    resumed_at_bytes: int
    sha256: str


def fetch_all(
    transport: Transport,
    artifacts: Iterable[Artifact],
    folder: Path,
    *,
    on_progress: DownloadProgressCallback | None = None,
) -> list[DownloadedFile]:
    """Fetch all artifacts below `folder`; raise Damaged when one has not the sha256 its manifest promised."""
    wanted = [(artifact, _target(folder, artifact.path)) for artifact in artifacts]
    return [fetch(transport, artifact, target, on_progress=on_progress) for artifact, target in wanted]


def fetch(
    transport: Transport, artifact: Artifact, target: Path, *, on_progress: DownloadProgressCallback | None = None
) -> DownloadedFile:
    """Fetch one artifact. The unfinished file beside it is named by its digest, so no other version is continued."""
    say = on_progress or (lambda _artifact, _num_bytes: None)
    if target.is_file() and target.stat().st_size == artifact.size_bytes and _sha256(target) == artifact.sha256:
        say(artifact, artifact.size_bytes)
        return DownloadedFile(target, "already there", artifact.size_bytes, 0, artifact.sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{artifact.sha256[:12]}.part")
    resumed_at = min(part.stat().st_size, artifact.size_bytes) if part.exists() else 0
    found = _fetch_into(transport, artifact, part, say)
    if found != artifact.sha256 and resumed_at:
        # The beginning may come from a damaged disk or a torn write: once more from nothing before giving up.
        part.unlink()
        resumed_at = 0
        found = _fetch_into(transport, artifact, part, say)
    if found != artifact.sha256:
        part.unlink()
        raise DamagedDownload(
            f"{artifact.path}: expected sha256 {artifact.sha256}, received {found}", code="damaged_download"
        )
    part.replace(target)
    how: Literal["resumed", "downloaded"] = "resumed" if resumed_at else "downloaded"
    return DownloadedFile(target, how, artifact.size_bytes, resumed_at, found)


def _fetch_into(transport: Transport, artifact: Artifact, part: Path, say: DownloadProgressCallback) -> str:
    """Bring the partial file to full length, over as many connections as it takes; return its sha256."""
    num_idle = 0
    while True:
        size = part.stat().st_size if part.exists() else 0
        if size > artifact.size_bytes:
            part.unlink()
            continue
        if size == artifact.size_bytes and part.exists():
            return _sha256(part)
        try:
            _append(transport, artifact, part, size, say)
        except httpx.TransportError as error:
            grown = (part.stat().st_size if part.exists() else 0) > size
            num_idle = 0 if grown else num_idle + 1
            if num_idle >= transport.max_tries:
                raise ServerUnreachable(f"{artifact.path}: the connection keeps breaking: {error}") from error
            transport.pause(num_idle)


def _append(transport: Transport, artifact: Artifact, part: Path, size: int, say: DownloadProgressCallback) -> None:
    # Identity: a compressed answer has other bytes and other ranges than the file.
    headers = {"Accept-Encoding": "identity"}
    if size:
        # If-Range: should the file have changed, the server sends all of it, and not a tail that does not fit.
        headers |= {"Range": f"bytes={size}-", "If-Range": f'"{artifact.sha256}"'}
    with transport.stream("GET", f"/v1/artifacts/{artifact.id}/content", headers=headers) as response:
        continued = response.status_code == 206
        with part.open("ab" if continued else "wb") as file:
            at = size if continued else 0
            for chunk in response.iter_raw():  # as they come: a buffered chunk would be lost with the connection
                file.write(chunk)
                at += len(chunk)
                say(artifact, at)
            file.flush()
            os.fsync(file.fileno())
    if at > artifact.size_bytes:
        part.unlink()
        raise DamagedDownload(
            f"{artifact.path}: {at} bytes came, {artifact.size_bytes} were promised", code="damaged_download"
        )
    if at < artifact.size_bytes:
        raise httpx.ReadError(f"ended after {at} of {artifact.size_bytes} bytes")


def _target(folder: Path, path: str) -> Path:
    """Place a server's path below the folder, or refuse one that would leave it."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or ":" in parts[0]:
        raise BadInput(f"the server named a file {path!r}, which is not below the folder: nothing was written")
    return folder.joinpath(*parts)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
