"""Data sets: listed, read, deleted. `uploads` has the routes that create them."""

from typing import Annotated

from fastapi import APIRouter, BackgroundTasks, Query

from api.deps import Cursor, DatasetsReader, DatasetsWriter, Limit, SessionDep
from api.schemas.common import Page
from api.schemas.datasets import DatasetOut, DeletionReceipt, PreviewOut, ValidationOut
from api.services import datasets as service
from soul_store.blobs import get_blob_store

router = APIRouter(prefix="/v1/datasets", tags=["data sets"])


@router.get("", operation_id="list_datasets")
def list_datasets(
    caller: DatasetsReader, session: SessionDep, limit: Limit = 20, cursor: Cursor = None
) -> Page[DatasetOut]:
    """List data sets, newest first."""
    rows = service.list_page(session, caller, limit=limit + 1, before=cursor)
    return Page.of(rows, limit, service.make_dataset_out)


@router.get("/{dataset_id}", operation_id="get_dataset")
def get_dataset(dataset_id: str, caller: DatasetsReader, session: SessionDep) -> DatasetOut:
    """Return a data set."""
    return service.make_dataset_out(service.get_owned(session, caller, dataset_id))


@router.get("/{dataset_id}/validation", operation_id="get_dataset_validation")
def get_dataset_validation(dataset_id: str, caller: DatasetsReader, session: SessionDep) -> ValidationOut:
    """Return the validation of the content: every bad row by its number, duplicates, columns, warnings."""
    return service.make_validation_out(service.get_owned(session, caller, dataset_id))


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
    """Delete a data set and its content. The receipt identifies what was deleted."""
    row, blob = service.delete(session, caller, dataset_id)
    if blob is not None:  # removed after the commit: a deletion that is rolled back keeps its file
        background_tasks.add_task(get_blob_store().delete, blob)
    return DeletionReceipt.model_validate(row)
