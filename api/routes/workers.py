"""The workers of the fleet, over HTTP."""

from fastapi import APIRouter

from api.deps import JobsReader, SessionDep
from api.schemas.workers import WorkersOut
from api.services import workers as service

router = APIRouter(prefix="/v1", tags=["workers"])


@router.get("/workers", operation_id="list_workers")
def list_workers(caller: JobsReader, session: SessionDep) -> WorkersOut:
    """List the workers that run, or were lost lately, with their devices."""
    return service.list_workers(session, caller)
