"""Rules of data sets: what is uploaded is read at once, and kept only when every row can be used."""

import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import ServiceError, make_not_found_error
from soul_core.data import Format, ReadResult, read_rows, validate_rows, write_canonical
from soul_core.errors import BadData
from soul_store import datasets
from soul_store.blobs import get_blob_store
from soul_store.ids import new_id
from soul_store.settings import get_settings
from soul_store.tables import Dataset

#: Groups of duplicates that are listed; a data set may repeat itself endlessly.
_MOST_DUPLICATES = 1000
#: Rows that a warning lists; it counts all of them.
_MAX_LISTED_ROWS = 1000


@dataclass(frozen=True)
class ReadingOptions:
    """How an upload is read."""

    file_format: str | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    clean: bool = True
    normalize: bool = False

    def to_stored_mapping(self) -> dict[str, str]:
        """Return mapping and switches as the row keeps them, those that differ from the default."""
        switches = {_CLEAN: "" if self.clean else _NO, _NORMALIZE: _YES if self.normalize else ""}
        return {**self.mapping, **{name: value for name, value in switches.items() if value}}


@dataclass(frozen=True)
class Upload:
    """Bytes that arrived whole, in a file that is removed afterwards."""

    path: Path
    filename: str | None
    size_bytes: int
    sha256: str


@contextmanager
def make_upload_folder() -> Iterator[Path]:
    """Yield a private folder for one upload; gone at the end, whatever happens."""
    parent = get_settings().scratch_dir / "uploads"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


@contextmanager
def reserve_blob_key() -> Iterator[str]:
    """Yield a fresh blob key; what the block stores there goes when the block, and so its transaction, fails."""
    key = f"datasets/{new_id('ds')}.jsonl"
    try:
        yield key
    except BaseException:
        get_blob_store().delete(key)
        raise


def read_upload(upload: Upload, options: ReadingOptions, *, key: str) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Read an upload; return its validation and, when it is usable, the columns of its row (stored under `key`)."""
    try:
        reading = read_rows(
            upload.path,
            format=cast("Format | None", options.file_format),
            mapping=options.mapping or None,
            name=upload.filename or "upload",
            clean=options.clean,
            normalize=options.normalize,
            max_expanded_bytes=get_settings().max_expanded_bytes,
        )
    except BadData as error:
        return {"usable": False, "error": "; ".join([error.message, *error.details])}, None
    found = _validation(reading)
    if not found["usable"]:
        return found, None
    canonical = upload.path.with_name("rows.jsonl")
    content_sha256 = write_canonical(reading.rows, canonical)
    stored = get_blob_store().put_file(key, canonical)
    return found, {
        "status": "ready",
        "blob": stored.key,
        "size_bytes": upload.size_bytes,
        "sha256": upload.sha256,
        "content_sha256": content_sha256,
        "num_rows": len(reading.rows),
    }


def create_from_upload(
    session: Session,
    caller: Caller,
    upload: Upload,
    *,
    name: str,
    options: ReadingOptions,
    key: str,
) -> Dataset:
    """Make a data set of a whole upload. Raises 422 naming every bad row; nothing is kept then."""
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
    """Give a locked data set its content. Of unusable content only the validation is kept; its error is returned.

    The same bytes again change nothing, as PUT promises; others find a data set that is never exchanged under a job.
    """
    if row.status == "ready":
        if row.sha256 == upload.sha256:
            return None
        raise ServiceError(409, "has_content", f"data set {row.id} has other content already; make another one")
    named = replace(upload, filename=row.mapping.get(_FILENAME))
    options = ReadingOptions(row.format, get_user_mapping(row), is_cleaned(row), is_normalized(row))
    validation, content = read_upload(named, options, key=key)
    row.validation = validation
    for name, value in (content or {"status": "invalid"}).items():
        setattr(row, name, value)
    if content is not None:
        row.format = validation["format"]
    session.flush()
    return None if content else make_invalid_dataset_error(validation)


#: Where a data set remembers the file's own name until it comes, and the switches it is read with.
_FILENAME, _CLEAN, _NORMALIZE = ".filename", ".clean", ".normalize"
_YES, _NO = "true", "false"


def get_user_mapping(row: Dataset) -> dict[str, str]:
    """Return the mapping as the user gave it."""
    return {name: column for name, column in row.mapping.items() if name not in {_FILENAME, _CLEAN, _NORMALIZE}}


def is_cleaned(row: Dataset) -> bool:
    """Say whether prompts and answers are cleaned as they are read."""
    return row.mapping.get(_CLEAN) != _NO


def is_normalized(row: Dataset) -> bool:
    """Say whether texts are rewritten in normal form C as they are read."""
    return row.mapping.get(_NORMALIZE) == _YES


def create(
    session: Session,
    caller: Caller,
    *,
    name: str,
    filename: str | None,
    options: ReadingOptions,
) -> Dataset:
    """Make a data set whose content follows."""
    kept = options.to_stored_mapping() | ({_FILENAME: filename} if filename else {})
    return datasets.insert(
        session,
        tenant_id=caller.tenant_id,
        actor=caller.key_id,
        name=name,
        file_format=options.file_format,
        mapping=kept,
    )


def get_owned(session: Session, caller: Caller, dataset_id: str, *, for_update: bool = False) -> Dataset:
    """Return the caller's data set."""
    row = datasets.get(session, caller.tenant_id, dataset_id, for_update=for_update)
    if row is None:
        raise make_not_found_error(f"data set {dataset_id}")
    return row


def preview(row: Dataset, limit: int) -> list[dict[str, Any]]:
    """Return the first rows as the engine reads them."""
    if row.blob is None:
        raise ServiceError(409, "no_content", f"data set {row.id} has no content yet: its status is {row.status}")
    with get_blob_store().open(row.blob) as content:
        return [json.loads(line) for line in islice(content, limit)]


def delete(session: Session, caller: Caller, dataset_id: str) -> tuple[Dataset, str | None]:
    """Delete a data set; return its receipt row and the blob to remove once that is committed."""
    row = get_owned(session, caller, dataset_id, for_update=True)
    job_id = datasets.find_active_job(session, row.id)
    if job_id is not None:
        raise ServiceError(409, "in_use", f"job {job_id} still needs this data set; cancel it or wait for its end")
    blob = row.blob
    datasets.delete(session, row, caller.key_id)
    return row, blob


def make_invalid_dataset_error(validation: dict[str, Any]) -> ServiceError:
    """Return the 422 that lists every bad row."""
    if validation.get("error"):
        return ServiceError(422, "unreadable_dataset", validation["error"])
    problems = validation["problems"]
    bad = {problem["row"] for problem in problems}
    total = validation["num_rows"] + len(bad)
    return ServiceError(
        422,
        "bad_rows",
        f"{len(bad)} of {total} rows cannot be used; correct them and upload again",
        errors=[
            (f"/rows/{problem['row']}", ": ".join(filter(None, (problem["column"], problem["detail"]))))
            for problem in problems
        ],
    )


def _validation(reading: ReadResult) -> dict[str, Any]:
    found = validate_rows(reading)
    return {
        "usable": found.is_usable,
        "format": found.format,
        "num_rows": found.num_rows,
        "columns": list(found.columns),
        "used_columns": list(found.used_columns),
        "problems": [{"row": one.number, "column": one.column, "detail": one.detail} for one in found.problems],
        "duplicates": [list(group) for group in found.duplicates[:_MOST_DUPLICATES]],
        "warnings": [
            {
                "kind": warning.kind,
                "detail": warning.detail,
                "rows": list(warning.rows[:_MAX_LISTED_ROWS]),
                "num_rows": len(warning.rows),
            }
            for warning in found.warnings
        ],
    }
