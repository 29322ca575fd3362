"""The files that a job made: complete, a range of one, or only its size and digest."""

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import RedirectResponse, Response, StreamingResponse

from api.deps import CallerDep, OwnedJob, SessionDep
from api.error_handlers import make_problem_responses
from api.errors import ErrorCode, ServiceError
from api.http_preconditions import ByteRange, has_etag, parse_range_header, parse_single_range
from api.schemas.common import Page
from api.schemas.jobs import ArtifactOut, DownloadUrlOut
from api.sendfile import SendfileResponse
from api.services import artifacts as service
from soul_store.blobs import CHUNK_BYTES, get_blob_store

router = APIRouter(prefix="/v1", tags=["results"])

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_HEADERS = {
    "ETag": {"description": "The file's sha256.", "schema": {"type": "string"}},
    "Repr-Digest": {"description": "The file's sha256 in the format of RFC 9530.", "schema": {"type": "string"}},
    "Accept-Ranges": {"description": "bytes", "schema": {"type": "string"}},
}


@dataclass(frozen=True)
class _StoredContent:
    """A file in an object store, and the URL that reads it without a key, if clients may have one."""

    key: str
    filename: str
    size_bytes: int
    url: str | None


@router.get("/jobs/{job_id}/artifacts", operation_id="list_job_artifacts")
def list_artifacts(job: OwnedJob, session: SessionDep) -> Page[ArtifactOut]:
    """List the files that a job made, with size and sha256."""
    return Page(data=[ArtifactOut.model_validate(row) for row in service.list_artifacts(session, job)])


@router.api_route("/artifacts/{artifact_id}/content", methods=["HEAD"], include_in_schema=False)
@router.get(
    "/artifacts/{artifact_id}/content",
    operation_id="get_artifact_content",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": _BYTES, "headers": _HEADERS},
        206: {"description": "The requested range.", "content": _BYTES, "headers": _HEADERS},
        304: {"description": "The file has the version of If-None-Match."},
        307: {
            "description": "The file is at a URL of the object store, which needs no API key and must not see it.",
            "headers": {"Location": {"description": "Valid for minutes.", "schema": {"type": "string"}}},
        },
        **make_problem_responses({416: "The file has no such range."}),
    },
)
def get_artifact_content(
    request: Request,
    artifact_id: str,
    caller: CallerDep,
    session: SessionDep,
    if_none_match: Annotated[str | None, Header()] = None,
    if_range: Annotated[str | None, Header()] = None,
    range_header: Annotated[str | None, Header(alias="range", examples=["bytes=1048576-"])] = None,
) -> Response:
    """Download a file. Supports HEAD, Range, If-Range and If-None-Match; the ETag is the file's sha256.

    Weights need the scope models:download; those of a job whose verdict is not `passed` need
    models:download_unverified, and their download is written to the audit log.
    """
    artifact = service.authorize_download(session, caller, artifact_id)
    etag = f'"{artifact.sha256}"'
    headers = {
        "ETag": etag,
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(artifact.sha256)).decode()}:",
        "Cache-Control": "private, no-cache",
    }
    if has_etag(if_none_match, etag):
        return Response(status_code=304, headers=headers)
    valid_range, is_satisfiable = parse_range_header(range_header, artifact.size_bytes)
    if not is_satisfiable and if_range in {None, etag}:
        size = artifact.size_bytes
        raise ServiceError(
            ErrorCode.NO_SUCH_RANGE,
            f"the file has {size} bytes and none of the range {range_header}",
            headers={"Content-Range": f"bytes */{size}"},
        )
    if valid_range is None:  # the response class refuses, in plain text, a header that must be ignored
        request.scope["headers"] = [pair for pair in request.scope["headers"] if pair[0] != b"range"]
    filename = artifact.path.rsplit("/", 1)[-1]
    path = get_blob_store().get_local_path(artifact.blob)
    if path is None:
        respected = valid_range if if_range in {None, etag} else None
        made = service.make_download_url(artifact)
        content = _StoredContent(artifact.blob, filename, artifact.size_bytes, made[0] if made else None)
        return _respond_from_store(request, content, headers, respected)
    response = SendfileResponse(path, headers=headers, media_type="application/octet-stream", filename=filename)
    response.chunk_size = CHUNK_BYTES  # without sendfile, four times as fast as the default
    return response


@router.get(
    "/artifacts/{artifact_id}/download-url",
    operation_id="get_artifact_download_url",
    responses=make_problem_responses({409: "The service has no URLs of an object store."}),
)
def get_download_url(artifact_id: str, caller: CallerDep, session: SessionDep) -> DownloadUrlOut:
    """Return a URL that downloads the file from the object store, for programs that have no API key.

    It needs the same scopes as the download, and is written to the same audit log.
    """
    artifact = service.authorize_download(session, caller, artifact_id)
    url, expires_at = service.require_download_url(artifact)
    return DownloadUrlOut(
        url=url,
        expires_at=expires_at,
        filename=artifact.path.rsplit("/", 1)[-1],
        size_bytes=artifact.size_bytes,
        sha256=artifact.sha256,
    )


def _respond_from_store(
    request: Request, content: _StoredContent, headers: dict[str, str], range_header: str | None
) -> Response:
    """Answer HEAD from the row, and GET by a redirect, or by passing the bytes on if there is no URL."""
    size, media_type = content.size_bytes, "application/octet-stream"
    headers |= {"Accept-Ranges": "bytes", "Content-Disposition": f'attachment; filename="{content.filename}"'}
    if request.method == "HEAD":
        return Response(headers=headers | {"Content-Length": str(size)}, media_type=media_type)
    if content.url is not None:
        # private: a shared cache must not give the URL to others
        return RedirectResponse(content.url, 307, headers=headers | {"Cache-Control": "private, no-store"})
    wanted = parse_single_range(range_header, size) if range_header else None
    part = wanted or ByteRange(0, size)
    headers["Content-Length"] = str(part.stop - part.start)
    if wanted:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    chunks = _read(content.key, part)
    return StreamingResponse(chunks, 206 if wanted else 200, headers=headers, media_type=media_type)


def _read(key: str, part: ByteRange) -> Iterator[bytes]:
    with get_blob_store().open(key) as content:
        content.seek(part.start)
        remaining = part.stop - part.start
        while remaining and (chunk := content.read(min(CHUNK_BYTES, remaining))):
            remaining -= len(chunk)
            yield chunk
