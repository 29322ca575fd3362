"""Models over HTTP."""

from fastapi import APIRouter, Response

from api.deps import Cursor, Limit, ModelsReader, ModelsWriter, SessionDep
from api.errors import make_problem_responses
from api.schemas.inputs import ModelCreate, ModelOut
from api.schemas.jobs import Page
from api.services import models as service
from soul_store import models

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post(
    "",
    status_code=201,
    operation_id="create_model",
    responses=make_problem_responses({502: "The hub does not give this model."}),
)
def create_model(body: ModelCreate, caller: ModelsWriter, session: SessionDep, response: Response) -> ModelOut:
    """Register a model: a hub id (pinned to its commit), a folder or GGUF file on the server, or a job's output.

    Refused: pickles, code, `auto_map`, truncated files.
    """
    row = service.create(session, caller, body)
    response.headers["Location"] = f"/v1/models/{row.id}"
    return ModelOut.model_validate(row)


@router.get("", operation_id="list_models")
def list_models(caller: ModelsReader, session: SessionDep, limit: Limit = 20, cursor: Cursor = None) -> Page[ModelOut]:
    """List models."""
    rows = models.list_page(session, caller.tenant_id, limit=limit + 1, before=cursor)
    shown = [ModelOut.model_validate(row) for row in rows[:limit]]
    more = len(rows) > limit
    return Page(data=shown, has_more=more, next_cursor=shown[-1].id if more else None)


@router.get("/{model_id}", operation_id="get_model")
def get_model(model_id: str, caller: ModelsReader, session: SessionDep) -> ModelOut:
    """Return one model."""
    return ModelOut.model_validate(service.get_owned(session, caller, model_id))


@router.delete("/{model_id}", status_code=204, operation_id="delete_model")
def delete_model(model_id: str, caller: ModelsWriter, session: SessionDep) -> None:
    """Forget a registration. The model's own files are not touched."""
    models.delete(session, service.get_owned(session, caller, model_id), caller.key_id)
