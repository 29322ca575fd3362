"""The files that a job made: complete, a range of one, or only its size and digest."""

import base64
from typing import Annotated

from fastapi import APIRouter, Header, Request
from fastapi.responses import FileResponse, Response

from api.deps import CallerDep, OwnedJob, SessionDep
from api.error_handlers import make_problem_responses
from api.errors import ErrorCode, ServiceError
from api.http_preconditions import has_etag, parse_range_header
from api.schemas.common import Page
from api.schemas.jobs import ArtifactOut
from api.services import artifacts as service
from soul_store.blobs import CHUNK_BYTES, get_blob_store

router = APIRouter(prefix="/v1", tags=["results"])

_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_HEADERS = {
    "ETag": {"description": "The file's sha256.", "schema": {"type": "string"}},
    "Repr-Digest": {"description": "The file's sha256 in the format of RFC 9530.", "schema": {"type": "string"}},
    "Accept-Ranges": {"description": "bytes", "schema": {"type": "string"}},
}


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
    path = get_blob_store().get_local_path(artifact.blob)
    assert path is not None
    filename = artifact.path.rsplit("/", 1)[-1]
    response = FileResponse(path, headers=headers, media_type="application/octet-stream", filename=filename)
    response.chunk_size = CHUNK_BYTES  # four times as fast as the default
    return response
