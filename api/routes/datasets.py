"""Data sets over HTTP: what is there, what was found in it, its end. They come in by `uploads.py`."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query

from api.deps import Cursor, DatasetsReader, DatasetsWriter, Limit, SessionDep
from api.errors import ServiceError
from api.routes.uploads import make_dataset_out
from api.schemas.inputs import (
    BadRow,
    DatasetConflicts,
    DatasetOut,
    DeletionReceipt,
    PreviewOut,
    RowWarningOut,
    ValidationOut,
)
from api.schemas.jobs import Page
from api.services import datasets as service
from soul_store import datasets
from soul_store.blobs import get_blob_store

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])


@router.get("", operation_id="list_datasets")
def list_datasets(
    caller: DatasetsReader, session: SessionDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[DatasetOut]:
    """List data sets, newest first."""
    rows = datasets.list_page(session, caller.tenant_id, limit=limit + 1, before=cursor)
    more = len(rows) > limit
    data = [make_dataset_out(row) for row in rows[:limit]]
    return Page(data=data, has_more=more, next_cursor=data[-1].id if more else None)


@router.get("/{dataset_id}", operation_id="get_dataset")
def get_dataset(dataset_id: str, caller: DatasetsReader, session: SessionDep) -> DatasetOut:
    """Return one data set."""
    return make_dataset_out(service.get_owned(session, caller, dataset_id))


@router.get("/{dataset_id}/validation", operation_id="get_dataset_validation")
def get_dataset_validation(dataset_id: str, caller: DatasetsReader, session: SessionDep) -> ValidationOut:
    """Return what was found in the content: every bad row by its number, duplicates, columns, warnings."""
    row = service.get_owned(session, caller, dataset_id)
    if row.validation is None:
        raise ServiceError(409, "no_content", f"data set {row.id} has had no content yet: PUT it first")
    found = dict(row.validation)
    found["problems"] = [BadRow(**problem) for problem in found.get("problems", [])]
    found["warnings"] = [RowWarningOut(**warning) for warning in found.get("warnings", [])]
    found["conflicts"] = [DatasetConflicts.model_validate(each) for each in found.get("conflicts", [])]
    return ValidationOut(**found)


@router.get("/{dataset_id}/preview", operation_id="preview_dataset")
def preview_dataset(
    dataset_id: str, caller: DatasetsReader, session: SessionDep, limit: Annotated[int, Query(ge=1, le=100)] = 5
) -> PreviewOut:
    """Return the first rows as the engine reads them."""
    return PreviewOut(rows=service.preview(service.get_owned(session, caller, dataset_id), limit))


@router.delete("/{dataset_id}", operation_id="delete_dataset")
def delete_dataset(
    dataset_id: str, caller: DatasetsWriter, session: SessionDep, background_tasks: BackgroundTasks
) -> DeletionReceipt:
    """Delete a data set and its content; the receipt says what was deleted."""
    row, blob = service.delete(session, caller, dataset_id)
    if blob is not None:
        background_tasks.add_task(
            get_blob_store().delete, blob
        )  # after the commit: a rolled back deletion keeps its file
    return DeletionReceipt.model_validate(row)
