"""Uploads of data sets: as a form, or as metadata followed by the content.

The API key is checked before any body is read.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from api.auth import Caller, authenticate
from api.capacity import Places
from api.deps import PlacesDep, UploadPlacesDep, bearer
from api.error_handlers import make_problem_response, make_problem_responses
from api.errors import ErrorCode, RequestProblem, ServiceError
from api.schemas.datasets import DatasetCreate, DatasetOut
from api.services import conflicts
from api.services import datasets as service
from soul_core.atomic_io import translate_disk_errors
from soul_core.data import FORMATS
from soul_core.errors import DiskFull
from soul_store.blobs import StorageFull
from soul_store.database import transaction
from soul_store.settings import get_settings

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

_STORAGE_FULL = {507: "The server's disk is full; nothing was kept."}
_COMPARE_WITH = (
    "Ids of data sets whose facts this one should not state: for a retain set, its forget set. The validation's "
    "`conflicts` lists the rows that state them."
)
_CREATE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/DatasetCreate"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {"type": "string", "format": "binary"},
                        "name": {"type": "string", "description": "Default: the file's name."},
                        "format": {"type": "string", "enum": list(FORMATS)},
                        "mapping": {
                            "type": "string",
                            "description": "JSON object, as in the JSON body.",
                            "examples": ['{"prompt": "instruction+input", "completion": "output"}'],
                        },
                        "clean": {"type": "boolean", "default": True, "description": "As in the JSON body."},
                        "normalize": {"type": "boolean", "default": False, "description": "As in the JSON body."},
                        "compare_with": {
                            "type": "array",
                            "items": {"type": "string"},
                            "description": _COMPARE_WITH,
                        },
                    },
                }
            },
        },
    }
}
_CONTENT_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    },
    "parameters": [
        {
            "name": "Content-Digest",
            "in": "header",
            "required": False,
            "description": "`sha-256=:...:` (RFC 9530) of the body; a body with another digest is refused.",
            "schema": {"type": "string"},
        }
    ],
}


@router.post(
    "",
    status_code=201,
    operation_id="create_dataset",
    response_model=DatasetOut,
    dependencies=[Depends(bearer)],
    openapi_extra=_CREATE_BODY,
    responses=make_problem_responses({415: "The body is neither a form nor JSON.", **_STORAGE_FULL}),
)
async def create_dataset(request: Request, places: PlacesDep, upload_places: UploadPlacesDep) -> Response:
    """Upload a file (multipart), or create a data set (JSON) whose content follows by PUT.

    Accepted: JSONL, CSV, Parquet, plain text, each plain or compressed with gzip or zstd; columns prompt+completion,
    question+answer, messages, conversations, instruction+input+output or text, or a mapping. A file with unusable rows
    is refused: the response names every bad row, and nothing is kept. The validation's `warnings` list what was cleaned
    and what is unusual.
    """
    caller = await places.run(_authenticate_writer, request)
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type == "multipart/form-data":
        return await _create_from_form(request, caller, upload_places)
    if media_type not in {"application/json", ""}:
        detail = f"send multipart/form-data or application/json, not {media_type}"
        raise ServiceError(ErrorCode.UNSUPPORTED_MEDIA_TYPE, detail)
    with _translate_upload_errors():
        body = _parse(await request.body())
    return await places.run(_create_without_content, caller, body)


@router.put(
    "/{dataset_id}/content",
    operation_id="put_dataset_content",
    response_model=DatasetOut,
    dependencies=[Depends(bearer)],
    openapi_extra=_CONTENT_BODY,
    responses=make_problem_responses(_STORAGE_FULL),
)
async def put_content(
    request: Request,
    places: PlacesDep,
    upload_places: UploadPlacesDep,
    dataset_id: str,
    compare_with: Annotated[list[str] | None, Query(description=_COMPARE_WITH)] = None,
) -> Response:
    """Stream the content. Of an interrupted upload nothing is kept; it can be sent again.

    After unusable content the data set is `invalid`, its validation lists the problems, and corrected content can be
    sent. The content of a ready data set does not change: the same bytes again answer 200, others 409.
    """
    caller = await places.run(_authenticate_writer, request)
    await places.run(_require_owned, caller, dataset_id)
    with _translate_upload_errors(), service.make_upload_folder() as folder:
        upload = await _receive(request, folder / "upload")
        return await upload_places.run(_set_content, request, caller, dataset_id, upload, compare_with or [])


def _authenticate_writer(request: Request) -> Caller:
    """Return the caller, in a transaction of its own: none stays open while a client sends."""
    with transaction() as session:
        caller = authenticate(session, request.headers.get("authorization"))
    caller.require("datasets:write")
    return caller


def _require_owned(caller: Caller, dataset_id: str) -> None:
    with transaction() as session:
        service.get_owned(session, caller, dataset_id)


async def _create_from_form(request: Request, caller: Caller, upload_places: Places) -> Response:
    with _translate_upload_errors():
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("file")
            if not hasattr(file, "filename"):
                detail = "the form has no 'file'; add one"
                raise ServiceError(ErrorCode.INVALID_REQUEST, detail, problems=[RequestProblem("/file", detail)])
            with service.make_upload_folder() as folder:
                compare_with = [str(value) for value in form.getlist("compare_with")]
                return await upload_places.run(
                    _create_from_file, caller, file, dict(form), folder / "upload", compare_with
                )


def _create_from_file(
    caller: Caller, file: Any, form: dict[str, Any], path: Path, compare_with: Sequence[str]
) -> Response:
    body = _parse_form(form, file.filename)
    digest, size = hashlib.sha256(), 0
    max_bytes = get_settings().max_upload_bytes
    with path.open("wb") as out:
        while chunk := file.file.read(1 << 20):
            size += len(chunk)
            if size > max_bytes:
                detail = f"the file has more than {max_bytes} bytes (SOUL_MAX_UPLOAD_BYTES); upload a smaller one"
                raise ServiceError(ErrorCode.TOO_LARGE, detail)
            digest.update(chunk)
            out.write(chunk)
    upload = service.Upload(path, body.filename, size, digest.hexdigest())
    with service.reserve_blob_key() as key, transaction() as session:
        others = conflicts.get_comparison_sets(session, caller, compare_with)
        row = service.create_from_upload(session, caller, upload, name=body.name, options=_get_options(body), key=key)
        conflicts.add_to_validation(session, row, others)
        return _make_response(service.make_dataset_out(row), 201)


def _create_without_content(caller: Caller, body: DatasetCreate) -> Response:
    with transaction() as session:
        row = service.create(session, caller, name=body.name, filename=body.filename, options=_get_options(body))
        return _make_response(service.make_dataset_out(row), 201)


def _set_content(
    request: Request, caller: Caller, dataset_id: str, upload: service.Upload, compare_with: Sequence[str]
) -> Response:
    with service.reserve_blob_key() as key, transaction() as session:
        row = service.get_owned(session, caller, dataset_id, for_update=True)
        others = conflicts.get_comparison_sets(session, caller, compare_with)
        error = service.set_content(session, row, upload, key=key)
        if error is None:
            conflicts.add_to_validation(session, row, others)
        dataset = service.make_dataset_out(row)
    # the validation is committed now, also that of content that was refused
    return _make_response(dataset, 200) if error is None else make_problem_response(request, error)


def _parse(raw: bytes) -> DatasetCreate:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ServiceError(ErrorCode.BAD_JSON, f"the body is not JSON: {error}") from error
    try:
        return DatasetCreate.model_validate(body)
    except ValidationError as error:
        errors: list[Any] = [{**entry, "loc": ("body", *entry["loc"])} for entry in error.errors(include_url=False)]
        raise RequestValidationError(errors, body=body) from error


def _parse_form(form: dict[str, Any], filename: str | None) -> DatasetCreate:
    fields: dict[str, Any] = {"name": form.get("name") or filename or "upload"}
    if filename:
        fields["filename"] = filename
    if form.get("mapping"):
        try:
            fields["mapping"] = json.loads(form["mapping"])
        except (ValueError, RecursionError) as error:
            problem = RequestProblem("/mapping", str(error))
            detail = "'mapping' must be a JSON object"
            raise ServiceError(ErrorCode.INVALID_REQUEST, detail, problems=[problem]) from error
    fields |= {name: form[name] for name in ("format", "clean", "normalize") if form.get(name)}
    return _parse(json.dumps(fields).encode())


def _get_options(body: DatasetCreate) -> service.ReadingOptions:
    return service.ReadingOptions(body.format, body.mapping, body.clean, body.normalize)


async def _receive(request: Request, path: Path) -> service.Upload:
    """Write the body to `path`. Raises 400 if it does not have the digest that the client sent."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        async for chunk in request.stream():
            size += len(chunk)
            digest.update(chunk)
            await to_thread.run_sync(out.write, chunk)
    actual = f":{base64.b64encode(digest.digest()).decode()}:"
    if _parse_sha256(request.headers.get("content-digest", "")) not in {None, actual}:
        detail = "the content does not have the sha-256 of its Content-Digest header; send it again"
        raise ServiceError(ErrorCode.DIGEST_MISMATCH, detail)
    return service.Upload(path, None, size, digest.hexdigest())


def _parse_sha256(content_digest: str) -> str | None:
    """Return the sha-256 of a Content-Digest header; other algorithms are ignored (RFC 9530)."""
    members = (member.strip().partition("=") for member in content_digest.split(","))
    return next((value for name, _, value in members if name.strip().lower() == "sha-256"), None)


@contextmanager
def _translate_upload_errors() -> Iterator[None]:
    """Turn an interrupted connection or a full disk into the error of an upload."""
    try:
        with translate_disk_errors("an upload"):
            yield
    except ClientDisconnect as error:
        detail = "the upload was interrupted; nothing of it was kept, send it again"
        raise ServiceError(ErrorCode.CUT_OFF, detail) from error
    except (DiskFull, StorageFull) as error:
        detail = "the server's disk is full; nothing of this data set was kept"
        raise ServiceError(ErrorCode.STORAGE_FULL, detail) from error


def _make_response(dataset: DatasetOut, status: int) -> JSONResponse:
    headers = {"Location": f"/v1/datasets/{dataset.id}"} if status == 201 else None
    return JSONResponse(dataset.model_dump(mode="json"), status, headers=headers)
