"""Data sets over HTTP: multipart, or metadata first and the content streamed."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, BackgroundTasks, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from starlette.requests import ClientDisconnect

from api.auth import Caller, authenticate
from api.deps import Cursor, DatasetsReader, DatasetsWriter, Limit, SessionDep
from api.errors import ServiceError, problem_response
from api.schemas import (
    BadRow,
    DatasetCreate,
    DatasetOut,
    DeletionReceipt,
    Page,
    PreviewOut,
    ValidationOut,
)
from api.services import datasets as service
from api.store import datasets
from api.store.blobs import blobs
from api.store.database import transaction
from api.store.settings import settings
from api.store.tables import Dataset
from soul_core.rows import FORMATS

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])

_MULTIPART = {
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
                        "name": {"type": "string"},
                        "format": {"type": "string", "enum": list(FORMATS)},
                        "mapping": {"type": "string", "description": "JSON object, as in the JSON body."},
                    },
                }
            },
        },
    }
}


@router.post("", status_code=201, operation_id="create_dataset", response_model=DatasetOut, openapi_extra=_MULTIPART)
async def create(request: Request) -> Response:
    """Upload a file (multipart), or announce one (JSON) whose content follows by PUT.

    Accepted: JSONL, CSV, Parquet, plain text, each plain or compressed with gzip or zstd; columns prompt+completion,
    question+answer, messages or text, or a mapping. A file with rows that cannot be used is refused whole, every bad
    row named, and nothing of it is kept.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_multipart(request)
    if kind not in {"application/json", ""}:
        raise ServiceError(415, "unsupported_media_type", f"send multipart/form-data or application/json, not {kind}")
    body = _parsed(await request.body())
    return await run_in_threadpool(_announce, request, body)


@router.put(
    "/{dataset_id}/content",
    operation_id="put_dataset_content",
    response_model=DatasetOut,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def put_content(request: Request, dataset_id: str) -> Response:
    """Stream the content. Cut off half way, nothing is kept and it can be sent again.

    `Content-Digest: sha-256=:...:` is checked where it is given. After unusable content the data set is `invalid`,
    its validation says why, and better content can be sent.
    """
    caller = await run_in_threadpool(_writer, request)
    with service.upload_folder() as folder:
        await run_in_threadpool(_expect_content, caller, dataset_id)
        upload = await _receive(request, folder / "upload")
        return await run_in_threadpool(_fill, request, caller, dataset_id, upload, folder)


@router.get("", operation_id="list_datasets")
def page(caller: DatasetsReader, session: SessionDep, limit: Limit = 20, cursor: Cursor = None) -> Page[DatasetOut]:
    """List data sets."""
    rows = datasets.page(session, caller.tenant_id, limit=limit + 1, before=cursor)
    more = len(rows) > limit
    return Page(
        data=[_out(row) for row in rows[:limit]], has_more=more, next_cursor=rows[limit - 1].id if more else None
    )


@router.get("/{dataset_id}", operation_id="get_dataset")
def get(dataset_id: str, caller: DatasetsReader, session: SessionDep) -> DatasetOut:
    """Return one data set."""
    return _out(service.owned(session, caller, dataset_id))


@router.get("/{dataset_id}/validation", operation_id="get_dataset_validation")
def validation(dataset_id: str, caller: DatasetsReader, session: SessionDep) -> ValidationOut:
    """Return what was found in the content: every bad row by its number, duplicates, columns."""
    row = service.owned(session, caller, dataset_id)
    if row.validation is None:
        raise ServiceError(409, "no_content", f"data set {row.id} has had no content yet: PUT it first")
    found = dict(row.validation)
    found["problems"] = [BadRow(**problem) for problem in found.get("problems", [])]
    return ValidationOut(**found)


@router.get("/{dataset_id}/preview", operation_id="preview_dataset")
def preview(
    dataset_id: str, caller: DatasetsReader, session: SessionDep, limit: Annotated[int, Query(ge=1, le=100)] = 5
) -> PreviewOut:
    """Return the first rows as the engine reads them."""
    return PreviewOut(rows=service.preview(service.owned(session, caller, dataset_id), limit))


@router.delete("/{dataset_id}", operation_id="delete_dataset")
def delete(dataset_id: str, caller: DatasetsWriter, session: SessionDep, later: BackgroundTasks) -> DeletionReceipt:
    """Delete a data set and its content; the receipt says what was deleted."""
    row, blob = service.delete(session, caller, dataset_id)
    if blob is not None:
        later.add_task(blobs().delete, blob)  # after the commit: a rolled back deletion keeps its file
    return DeletionReceipt.model_validate(row)


def _writer(request: Request) -> Caller:
    with transaction() as session:
        caller = authenticate(request, session)
    caller.require("datasets:write")
    return caller


def _parsed(raw: bytes) -> DatasetCreate:
    from fastapi.exceptions import RequestValidationError
    from pydantic import ValidationError

    try:
        body = json.loads(raw)
    except ValueError as error:
        raise ServiceError(400, "bad_json", f"the body is not JSON: {error}") from error
    try:
        return DatasetCreate.model_validate(body)
    except ValidationError as error:
        found: list[Any] = [{**each, "loc": ("body", *each["loc"])} for each in error.errors(include_url=False)]
        raise RequestValidationError(found, body=body) from error


def _announce(request: Request, body: DatasetCreate) -> Response:
    caller = _writer(request)
    with transaction() as session:
        row = service.announce(
            session, caller, name=body.name, filename=body.filename, file_format=body.format, mapping=body.mapping
        )
    return _answer(row, 201)


async def _from_multipart(request: Request) -> Response:
    caller = await run_in_threadpool(_writer, request)
    async with request.form(max_files=1, max_fields=10) as form:
        file = form.get("file")
        if not hasattr(file, "filename"):
            raise ServiceError(422, "invalid_request", "the form has no 'file'", errors=[("/file", "missing")])
        with service.upload_folder() as folder:
            return await run_in_threadpool(_store, caller, file, dict(form), folder)


def _store(caller: Caller, file: Any, form: dict[str, Any], folder: Path) -> Response:
    digest, size, path = hashlib.sha256(), 0, folder / "upload"
    with path.open("wb") as out:
        while chunk := file.file.read(1 << 20):
            size += len(chunk)
            _within_limit(size)
            digest.update(chunk)
            out.write(chunk)
    body = _form_body(form, file.filename)
    upload = service.Upload(path, body.filename, size, digest.hexdigest())
    with transaction() as session:
        row = service.create_from_upload(
            session, caller, upload, name=body.name, file_format=body.format, mapping=body.mapping, into=folder
        )
    return _answer(row, 201)


def _form_body(form: dict[str, Any], filename: str | None) -> DatasetCreate:
    fields: dict[str, Any] = {"name": form.get("name") or filename or "upload"}
    if filename:
        fields["filename"] = filename
    if form.get("format"):
        fields["format"] = form["format"]
    if form.get("mapping"):
        fields["mapping"] = _json_field(form["mapping"])
    return _parsed(json.dumps(fields).encode())


def _json_field(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ServiceError(
            422, "invalid_request", "'mapping' must be a JSON object", errors=[("/mapping", str(error))]
        ) from error


def _expect_content(caller: Caller, dataset_id: str) -> None:
    with transaction() as session:
        row = service.owned(session, caller, dataset_id)
        if row.status == "ready":
            raise ServiceError(409, "has_content", f"data set {row.id} has its content already; make another one")


async def _receive(request: Request, path: Path) -> service.Upload:
    """Write the body to `path`. Raises when it is cut off, too large, or not what its digest promised."""
    declared = request.headers.get("content-length")
    if declared is not None and declared.isdigit():
        _within_limit(int(declared))
    digest, size = hashlib.sha256(), 0
    try:
        with path.open("wb") as out:
            async for chunk in request.stream():
                size += len(chunk)
                _within_limit(size)
                digest.update(chunk)
                await run_in_threadpool(out.write, chunk)
    except ClientDisconnect as error:
        raise ServiceError(400, "cut_off", "the upload was cut off; nothing of it was kept") from error
    ours = f"sha-256=:{base64.b64encode(digest.digest()).decode()}:"
    if request.headers.get("content-digest", ours) != ours:
        raise ServiceError(
            400, "digest_mismatch", "the content does not have the Content-Digest (sha-256) it came with"
        )
    return service.Upload(path, None, size, digest.hexdigest())


def _within_limit(size: int) -> None:
    most = settings().max_upload_bytes
    if size > most:
        raise ServiceError(413, "too_large", f"an upload may have at most {most} bytes (SOUL_MAX_UPLOAD_BYTES)")


def _fill(request: Request, caller: Caller, dataset_id: str, upload: service.Upload, folder: Path) -> Response:
    with transaction() as session:
        row = service.owned(session, caller, dataset_id, lock=True)
        named = service.Upload(upload.path, service.remembered_filename(row), upload.size_bytes, upload.sha256)
        error = service.fill(session, row, named, into=folder)
        session.flush()
    # the validation is committed by now, also that of content that was refused
    return _answer(row, 200) if error is None else problem_response(request, error)


def _out(row: Dataset) -> DatasetOut:
    out = DatasetOut.model_validate(row)
    return out.model_copy(update={"mapping": {k: v for k, v in out.mapping.items() if not k.startswith(".")}})


def _answer(row: Dataset, status: int) -> JSONResponse:
    headers = {"Location": f"/v1/datasets/{row.id}"} if status == 201 else None
    return JSONResponse(_out(row).model_dump(mode="json"), status, headers=headers)
