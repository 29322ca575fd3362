"""Downloads a job's files: partial ones are resumed by Range, every sha256 is checked, then the file is renamed."""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import httpx2

from soul_cli.errors import BadInput, DamagedDownload, ServerUnreachable
from soul_cli.resources import Artifact
from soul_cli.transport import Transport

DownloadProgressCallback = Callable[[Artifact, int], None]
"""Called with the file and the number of its bytes on disk."""


@dataclass(frozen=True, slots=True)
class DownloadedFile:
    """A file on disk, and how it came there."""

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
    """Download all artifacts below `folder`.

    Raises:
        BadInput: an artifact's path leads out of the folder; nothing is downloaded.
        DamagedDownload: a file does not have the sha256 of its manifest entry.
    """
    targets = [(artifact, _make_target(folder, artifact.path)) for artifact in artifacts]
    return [fetch(transport, artifact, target, on_progress=on_progress) for artifact, target in targets]


def fetch(
    transport: Transport, artifact: Artifact, target: Path, *, on_progress: DownloadProgressCallback | None = None
) -> DownloadedFile:
    """Download one artifact into a partial file, named by the artifact's digest so that no other version is resumed."""
    report = on_progress or (lambda _artifact, _num_bytes: None)
    if target.is_file() and target.stat().st_size == artifact.size_bytes and _compute_sha256(target) == artifact.sha256:
        report(artifact, artifact.size_bytes)
        return DownloadedFile(target, "already there", artifact.size_bytes, 0, artifact.sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.{artifact.sha256[:12]}.part")
    resumed_at = min(part.stat().st_size, artifact.size_bytes) if part.exists() else 0
    sha256 = _complete_part(transport, artifact, part, report)
    if sha256 != artifact.sha256 and resumed_at:
        # The existing beginning may be damaged: try once more from the first byte.
        part.unlink()
        resumed_at = 0
        sha256 = _complete_part(transport, artifact, part, report)
    if sha256 != artifact.sha256:
        part.unlink()
        raise DamagedDownload(
            f"{artifact.path}: expected sha256 {artifact.sha256}, received {sha256}", code="damaged_download"
        )
    part.replace(target)
    how: Literal["resumed", "downloaded"] = "resumed" if resumed_at else "downloaded"
    return DownloadedFile(target, how, artifact.size_bytes, resumed_at, sha256)


def _complete_part(transport: Transport, artifact: Artifact, part: Path, report: DownloadProgressCallback) -> str:
    """Download the rest of a partial file, over as many connections as it takes; return its sha256."""
    num_idle = 0
    while True:
        size = part.stat().st_size if part.exists() else 0
        if size > artifact.size_bytes:
            part.unlink()
            continue
        if size == artifact.size_bytes and part.exists():
            return _compute_sha256(part)
        try:
            _append(transport, artifact, part, size, report)
        except httpx2.TransportError as error:
            grown = (part.stat().st_size if part.exists() else 0) > size
            num_idle = 0 if grown else num_idle + 1
            if num_idle >= transport.max_tries:
                raise ServerUnreachable(f"{artifact.path}: the connection keeps breaking: {error}") from error
            transport.pause(num_idle)


def _append(transport: Transport, artifact: Artifact, part: Path, size: int, report: DownloadProgressCallback) -> None:
    # A compressed answer would have other bytes and other ranges than the file.
    headers = {"Accept-Encoding": "identity"}
    if size:
        # If-Range: if the file has changed, the server sends all of it instead of a tail that does not fit.
        headers |= {"Range": f"bytes={size}-", "If-Range": f'"{artifact.sha256}"'}
    with transport.stream_file(f"/v1/artifacts/{artifact.id}/content", headers=headers) as response:
        is_resumed = response.status_code == 206
        with part.open("ab" if is_resumed else "wb") as file:
            position = size if is_resumed else 0
            for chunk in response.iter_raw():  # unbuffered: a buffered chunk would be lost with the connection
                file.write(chunk)
                position += len(chunk)
                report(artifact, position)
            file.flush()
            os.fsync(file.fileno())
    if position > artifact.size_bytes:
        part.unlink()
        raise DamagedDownload(
            f"{artifact.path}: received {position} bytes, the manifest says {artifact.size_bytes}",
            code="damaged_download",
        )
    if position < artifact.size_bytes:
        raise httpx2.ReadError(f"ended after {position} of {artifact.size_bytes} bytes")


def _make_target(folder: Path, path: str) -> Path:
    """Return the place of a server's path below the folder; raise BadInput for a path that leads out of it."""
    parts = PurePosixPath(path).parts
    if not parts or PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or ":" in parts[0]:
        raise BadInput(f"the server names a file {path!r}, which is not below the folder: nothing is downloaded")
    return folder.joinpath(*parts)


def _compute_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
