"""Models: register, list, get, delete."""

from fastapi import APIRouter, Response

from api.deps import Cursor, Limit, ModelsReader, ModelsWriter, SessionDep
from api.error_handlers import make_problem_responses
from api.schemas.common import Page
from api.schemas.models import ModelCreate, ModelOut
from api.services import models as service

router = APIRouter(prefix="/v1/models", tags=["models"])


@router.post(
    "",
    status_code=201,
    operation_id="create_model",
    responses=make_problem_responses({502: "The hub does not provide this model."}),
)
def create_model(body: ModelCreate, caller: ModelsWriter, session: SessionDep, response: Response) -> ModelOut:
    """Register a model: a hub id (pinned to its commit), a folder or GGUF file on the server, or a job's output.

    Pickles, code, `auto_map` and truncated files are refused.
    """
    row = service.create(session, caller, body)
    response.headers["Location"] = f"/v1/models/{row.id}"
    return ModelOut.model_validate(row)


@router.get("", operation_id="list_models")
def list_models(caller: ModelsReader, session: SessionDep, limit: Limit = 20, cursor: Cursor = None) -> Page[ModelOut]:
    """List models, newest first."""
    rows = service.list_page(session, caller, limit=limit + 1, before=cursor)
    return Page.of(rows, limit, ModelOut.model_validate)


@router.get("/{model_id}", operation_id="get_model")
def get_model(model_id: str, caller: ModelsReader, session: SessionDep) -> ModelOut:
    """Return a model."""
    return ModelOut.model_validate(service.get_owned(session, caller, model_id))


@router.delete("/{model_id}", status_code=204, operation_id="delete_model")
def delete_model(model_id: str, caller: ModelsWriter, session: SessionDep) -> None:
    """Delete the registration of a model. Its files are not touched."""
    service.delete(session, caller, model_id)
