"""Rules of data sets: an upload is read at once, and kept only if every row is usable."""

import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from api.auth import Caller
from api.errors import ErrorCode, RequestProblem, ServiceError, make_not_found_error
from api.schemas.datasets import DatasetOut, ValidationOut
from api.services.upload_reading import UploadRequest, read_file, read_in_child
from soul_store import datasets
from soul_store.blobs import get_blob_store
from soul_store.database import Session
from soul_store.ids import new_id
from soul_store.settings import get_settings
from soul_store.tables import Dataset

_HOST = platform.node() or "host"
#: Text of at most this size is read by the API itself.
_SMALL_BYTES = 1 << 20
#: Entries of a row's mapping that are not columns: the file's own name, and the options that it is read with.
_FILENAME, _CLEAN, _NORMALIZE = ".filename", ".clean", ".normalize"
_YES, _NO = "true", "false"


@dataclass(frozen=True)
class ReadingOptions:
    """Options for reading an upload."""

    file_format: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    clean: bool = True
    normalize: bool = False

    def to_stored_mapping(self) -> dict[str, str]:
        """Return the mapping and the options that differ from the default, as the row stores them."""
        options = {_CLEAN: "" if self.clean else _NO, _NORMALIZE: _YES if self.normalize else ""}
        return {**self.mapping, **{name: value for name, value in options.items() if value}}


@dataclass(frozen=True)
class Upload:
    """A complete upload, in a file that is removed afterwards."""

    path: Path
    filename: str | None
    size_bytes: int
    sha256: str


@contextmanager
def make_upload_folder() -> Iterator[Path]:
    """Yield a private folder for one upload; it is removed when the block ends."""
    parent = _get_uploads_folder()
    parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with tempfile.TemporaryDirectory(dir=parent, prefix=f"{_HOST}-{os.getpid()}-") as folder:
        yield Path(folder)


def remove_left_uploads() -> None:
    """Remove the folders of uploads whose process on this machine was killed."""
    for folder in _get_uploads_folder().glob(f"{_HOST}-*"):
        pid = folder.name.removeprefix(f"{_HOST}-").partition("-")[0]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            shutil.rmtree(folder, ignore_errors=True)


def _get_uploads_folder() -> Path:
    return get_settings().scratch_dir / "uploads"


@contextmanager
def reserve_blob_key() -> Iterator[str]:
    """Yield a new blob key; the blob is removed if the block, and with it its transaction, fails."""
    key = f"datasets/{new_id('ds')}.jsonl"
    try:
        yield key
    except BaseException:
        get_blob_store().delete(key)
        raise


def read_upload(upload: Upload, options: ReadingOptions, *, key: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read an upload and store its rows under `key`.

    Returns:
        Its validation, and the columns of its row; None for the columns if the upload is not usable.
    """
    settings, canonical = get_settings(), upload.path.with_name("rows.jsonl")
    request = UploadRequest(
        str(upload.path),
        upload.filename or "upload",
        str(canonical),
        format=options.file_format,
        mapping=dict(options.mapping),
        clean=options.clean,
        normalize=options.normalize,
        max_expanded_bytes=settings.max_expanded_bytes,
    )
    if _is_harmless(upload):
        validation, content_sha256 = read_file(request)
    else:
        validation, content_sha256 = read_in_child(
            request, memory_bytes=settings.upload_memory_bytes, seconds=settings.upload_seconds
        )
    if content_sha256 is None:
        return validation, None
    stored = get_blob_store().put_file(key, canonical)
    return validation, {
        "status": "ready",
        "blob": stored.key,
        "size_bytes": upload.size_bytes,
        "sha256": upload.sha256,
        "content_sha256": content_sha256,
        "num_rows": validation["num_rows"],
    }


def _is_harmless(upload: Upload) -> bool:
    """Return whether a file is text and so small that a child process would cost more than it could."""
    if upload.size_bytes > _SMALL_BYTES:
        return False
    head = upload.path.read_bytes()[:4]
    return not head.startswith((b"PAR1", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"))


def create_from_upload(
    session: Session,
    caller: Caller,
    upload: Upload,
    *,
    name: str,
    options: ReadingOptions,
    key: str,
) -> Dataset:
    """Create a data set from a complete upload. Raises 422 naming every bad row; nothing is kept then."""
    validation, content = read_upload(upload, options, key=key)
    if content is None:
        raise make_invalid_dataset_error(validation)
    return datasets.insert(
        session,
        tenant_id=caller.tenant_id,
        actor=caller.key_id,
        name=name,
        file_format=validation["format"],
        mapping=options.to_stored_mapping(),
        validation=validation,
        **content,
    )


def set_content(session: Session, row: Dataset, upload: Upload, *, key: str) -> ServiceError | None:
    """Set the content of a data set whose row is locked. Sending the same bytes again changes nothing.

    Returns:
        The error of unusable content, whose validation is stored; None if the content is usable.

    Raises:
        ServiceError: 409 if the data set has other content: jobs may use it.
    """
    if row.status == "ready":
        if row.sha256 == upload.sha256:
            return None
        detail = f"data set {row.id} already has other content; create another data set"
        raise ServiceError(ErrorCode.HAS_CONTENT, detail)
    named = replace(upload, filename=row.mapping.get(_FILENAME))
    options = ReadingOptions(row.format, get_user_mapping(row), is_cleaned(row), is_normalized(row))
    validation, content = read_upload(named, options, key=key)
    if content is None:
        datasets.update(session, row, {"validation": validation, "status": "invalid"})
        return make_invalid_dataset_error(validation)
    datasets.update(session, row, {"validation": validation, "format": validation["format"], **content})
    return None


def get_user_mapping(row: Dataset) -> dict[str, str]:
    """Return the mapping without the options that are stored in it."""
    return {name: column for name, column in row.mapping.items() if name not in {_FILENAME, _CLEAN, _NORMALIZE}}


def is_cleaned(row: Dataset) -> bool:
    """Return whether prompts and answers are cleaned."""
    return row.mapping.get(_CLEAN) != _NO


def is_normalized(row: Dataset) -> bool:
    """Return whether texts are rewritten in Unicode normal form C."""
    return row.mapping.get(_NORMALIZE) == _YES


def create(
    session: Session,
    caller: Caller,
    *,
    name: str,
    filename: str | None,
    options: ReadingOptions,
) -> Dataset:
    """Create a data set whose content follows."""
    mapping = options.to_stored_mapping() | ({_FILENAME: filename} if filename else {})
    return datasets.insert(
        session,
        tenant_id=caller.tenant_id,
        actor=caller.key_id,
        name=name,
        file_format=options.file_format,
        mapping=mapping,
    )


def get_owned(session: Session, caller: Caller, dataset_id: str, *, for_update: bool = False) -> Dataset:
    """Return the caller's data set. Raises 404."""
    row = datasets.get(session, caller.tenant_id, dataset_id, for_update=for_update)
    if row is None:
        raise make_not_found_error(f"data set {dataset_id}")
    return row


def list_page(session: Session, caller: Caller, *, limit: int, before: str | None) -> list[Dataset]:
    """Return the caller's data sets, newest first, at most `limit`, older than the id `before`."""
    return datasets.list_page(session, caller.tenant_id, limit=limit, before=before)


def preview(row: Dataset, limit: int) -> list[dict[str, Any]]:
    """Return the first rows as the engine reads them."""
    if row.blob is None:
        raise _make_no_content_error(row)
    with get_blob_store().open(row.blob) as content:
        return [json.loads(line) for line in islice(content, limit)]


def delete(session: Session, caller: Caller, dataset_id: str) -> tuple[Dataset, str | None]:
    """Delete a data set; return its row, the receipt, and the blob to remove after the commit."""
    row = get_owned(session, caller, dataset_id, for_update=True)
    job_id = datasets.find_unfinished_job(session, row)
    if job_id is not None:
        detail = f"job {job_id} still needs this data set; cancel the job, or wait until it finishes"
        raise ServiceError(ErrorCode.IN_USE, detail)
    blob = row.blob
    datasets.delete(session, row, caller.key_id)
    return row, blob


def make_dataset_out(row: Dataset) -> DatasetOut:
    """Return a data set as responses contain it."""
    options = {"mapping": get_user_mapping(row), "clean": is_cleaned(row), "normalize": is_normalized(row)}
    return DatasetOut.model_validate(row).model_copy(update=options)


def make_validation_out(row: Dataset) -> ValidationOut:
    """Return the validation of a data set. Raises 409 before it had any content."""
    if row.validation is None:
        raise _make_no_content_error(row)
    return ValidationOut.model_validate(row.validation)


def make_invalid_dataset_error(validation: dict[str, Any]) -> ServiceError:
    """Return the 422 that lists every bad row."""
    if validation.get("error"):
        return ServiceError(ErrorCode.UNREADABLE_DATASET, validation["error"])
    bad_rows = {problem["row"] for problem in validation["problems"]}
    num_rows = validation["num_rows"] + len(bad_rows)
    problems = [
        RequestProblem(f"/rows/{problem['row']}", ": ".join(filter(None, (problem["column"], problem["detail"]))))
        for problem in validation["problems"]
    ]
    detail = f"{len(bad_rows)} of {num_rows} rows are not usable; correct them and upload again"
    return ServiceError(ErrorCode.BAD_ROWS, detail, problems=problems)


def _make_no_content_error(row: Dataset) -> ServiceError:
    detail = f"data set {row.id} has no content: its status is {row.status}; PUT the content first"
    return ServiceError(ErrorCode.NO_CONTENT, detail)
