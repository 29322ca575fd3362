"""Data sets in: as a form, or announced first and the content streamed. The key is checked before a body is read."""

import base64
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from api.auth import Caller, authenticate
from api.deps import bearer
from api.errors import ServiceError, make_problem_response, make_problem_responses
from api.schemas.inputs import DatasetCreate, DatasetOut
from api.services import conflicts
from api.services import datasets as service
from soul_core.atomic_io import translate_disk_errors
from soul_core.data import FORMATS
from soul_core.errors import DiskFull
from soul_store.blobs import StorageFull
from soul_store.database import transaction
from soul_store.settings import get_settings
from soul_store.tables import Dataset

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

_NO_ROOM = {507: "The server has no room for it; nothing was kept."}
_COMPARE_WITH = (
    "Ids of data sets whose facts this one should not state: for a retain set, its forget set. Rows that do are in the "
    "validation's `conflicts`."
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
            "description": "`sha-256=:...:` (RFC 9530) of the body; refused when it does not fit.",
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
    responses=make_problem_responses({415: "Neither a form nor JSON.", **_NO_ROOM}),
)
async def create_dataset(request: Request) -> Response:
    """Upload a file (multipart), or announce one (JSON) whose content follows by PUT.

    Accepted: JSONL, CSV, Parquet, plain text, each plain or compressed with gzip or zstd; columns prompt+completion,
    question+answer, messages, conversations, instruction+input+output or text, or a mapping. A file with rows that
    cannot be used is refused whole, every bad row named, and nothing of it is kept. What is usable and odd, and what
    was cleaned, is in the validation's `warnings`.
    """
    caller = await run_in_threadpool(_writer, request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, caller)
    if kind not in {"application/json", ""}:
        raise ServiceError(415, "unsupported_media_type", f"send multipart/form-data or application/json, not {kind}")
    with _arriving():
        body = _parsed(await request.body())
    return await run_in_threadpool(_announce, caller, body)


@router.put(
    "/{dataset_id}/content",
    operation_id="put_dataset_content",
    response_model=DatasetOut,
    dependencies=[Depends(bearer)],
    openapi_extra=_CONTENT_BODY,
    responses=make_problem_responses(_NO_ROOM),
)
async def put_content(
    request: Request,
    dataset_id: str,
    compare_with: Annotated[list[str] | None, Query(description=_COMPARE_WITH)] = None,
) -> Response:
    """Stream the content. Cut off half way, nothing is kept and it can be sent again.

    After unusable content the data set is `invalid`, its validation says why, and better content can be sent. A data
    set that has its content keeps it: the same bytes again are fine, others answer 409.
    """
    caller = await run_in_threadpool(_writer, request)
    await run_in_threadpool(_must_be_there, caller, dataset_id)
    with _arriving(), service.make_upload_folder() as folder:
        upload = await _received(request, folder / "upload")
        return await run_in_threadpool(_fill, request, caller, dataset_id, upload, compare_with or [])


def make_dataset_out(row: Dataset) -> DatasetOut:
    """Return a data set as HTTP shows it."""
    read = {"clean": service.is_cleaned(row), "normalize": service.is_normalized(row)}
    return DatasetOut.model_validate(row).model_copy(update={"mapping": service.get_user_mapping(row), **read})


def _writer(request: Request) -> Caller:
    """Return the caller in a transaction of its own: none is held open while a client sends."""
    with transaction() as session:
        caller = authenticate(request, session)
    caller.require("datasets:write")
    return caller


def _must_be_there(caller: Caller, dataset_id: str) -> None:
    with transaction() as session:
        service.get_owned(session, caller, dataset_id)


def _parsed(raw: bytes) -> DatasetCreate:
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ServiceError(400, "bad_json", f"the body is not JSON: {error}") from error
    try:
        return DatasetCreate.model_validate(body)
    except ValidationError as error:
        found: list[Any] = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found, body=body) from error


def _announce(caller: Caller, body: DatasetCreate) -> Response:
    with transaction() as session:
        row = service.create(session, caller, name=body.name, filename=body.filename, options=_options(body))
    return _answer(row, 201)


def _options(body: DatasetCreate) -> service.ReadingOptions:
    return service.ReadingOptions(body.format, body.mapping, body.clean, body.normalize)


async def _from_form(request: Request, caller: Caller) -> Response:
    with _arriving():
        async with request.form(max_files=1, max_fields=10) as form:
            file = form.get("file")
            if not hasattr(file, "filename"):
                raise ServiceError(422, "invalid_request", "the form has no 'file'", errors=[("/file", "missing")])
            with service.make_upload_folder() as folder:
                named = [str(value) for value in form.getlist("compare_with")]
                return await run_in_threadpool(_store, caller, file, dict(form), folder / "upload", named)


def _store(caller: Caller, file: Any, form: dict[str, Any], path: Path, compare_with: Sequence[str]) -> Response:
    body = _form_body(form, file.filename)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        while chunk := file.file.read(1 << 20):
            size += len(chunk)
            _within_limit(size)
            digest.update(chunk)
            out.write(chunk)
    upload = service.Upload(path, body.filename, size, digest.hexdigest())
    with service.reserve_blob_key() as key, transaction() as session:
        others = conflicts.get_comparison_sets(session, caller, compare_with)
        row = service.create_from_upload(session, caller, upload, name=body.name, options=_options(body), key=key)
        conflicts.add_to_validation(row, others)
    return _answer(row, 201)


def _form_body(form: dict[str, Any], filename: str | None) -> DatasetCreate:
    fields: dict[str, Any] = {"name": form.get("name") or filename or "upload"}
    if filename:
        fields["filename"] = filename
    if form.get("format"):
        fields["format"] = form["format"]
    if form.get("mapping"):
        fields["mapping"] = _json_field(form["mapping"])
    fields |= {name: form[name] for name in ("clean", "normalize") if form.get(name)}
    return _parsed(json.dumps(fields).encode())


def _json_field(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ServiceError(
            422, "invalid_request", "'mapping' must be a JSON object", errors=[("/mapping", str(error))]
        ) from error


async def _received(request: Request, path: Path) -> service.Upload:
    """Write the body to `path`. Raises when it is not what its digest promised."""
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        async for chunk in request.stream():
            size += len(chunk)
            digest.update(chunk)
            await run_in_threadpool(out.write, chunk)
    ours = f":{base64.b64encode(digest.digest()).decode()}:"
    if _promised_sha256(request.headers.get("content-digest", "")) not in {None, ours}:
        raise ServiceError(
            400, "digest_mismatch", "the content does not have the Content-Digest (sha-256) it came with"
        )
    return service.Upload(path, None, size, digest.hexdigest())


def _promised_sha256(header: str) -> str | None:
    """Return the sha-256 of a Content-Digest header; other algorithms are passed over, as RFC 9530 has it."""
    members = (member.strip().partition("=") for member in header.split(","))
    return next((value for name, _, value in members if name.strip().lower() == "sha-256"), None)


def _within_limit(size: int) -> None:
    most = get_settings().max_upload_bytes
    if size > most:
        raise ServiceError(413, "too_large", f"an upload may have at most {most} bytes (SOUL_MAX_UPLOAD_BYTES)")


@contextmanager
def _arriving() -> Iterator[None]:
    """Turn what ends an upload from outside into its problem: a cut connection, a full disk."""
    try:
        with translate_disk_errors("an upload"):
            yield
    except ClientDisconnect as error:
        raise ServiceError(400, "cut_off", "the upload was cut off; nothing of it was kept") from error
    except (DiskFull, StorageFull) as error:
        raise ServiceError(
            507, "storage_full", "the server has no room for this data set; nothing of it was kept"
        ) from error


def _fill(
    request: Request, caller: Caller, dataset_id: str, upload: service.Upload, compare_with: Sequence[str]
) -> Response:
    with service.reserve_blob_key() as key, transaction() as session:
        row = service.get_owned(session, caller, dataset_id, for_update=True)
        others = conflicts.get_comparison_sets(session, caller, compare_with)
        error = service.set_content(session, row, upload, key=key)
        if error is None:
            conflicts.add_to_validation(row, others)
    # the validation is committed by now, also that of content that was refused
    return _answer(row, 200) if error is None else make_problem_response(request, error)


def _answer(row: Dataset, status: int) -> JSONResponse:
    headers = {"Location": f"/v1/datasets/{row.id}"} if status == 201 else None
    return JSONResponse(make_dataset_out(row).model_dump(mode="json"), status, headers=headers)
