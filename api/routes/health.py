"""Liveness and readiness of the process."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.error_handlers import make_problem_responses
from api.errors import ErrorCode, ServiceError
from api.services.health import find_fleet_warnings, find_unavailable_servers

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The response of a healthy process."""

    status: str = "ok"


class Readiness(Health):
    """The response of a process that accepts requests."""

    warnings: list[str] = Field(description="What does not prevent it, such as no running worker.")


@router.get("/healthz", operation_id="healthz")
def get_liveness() -> Health:
    """Answer while the process runs."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readyz",
    responses=make_problem_responses({503: "A server that the API needs does not answer."}),
)
def get_readiness() -> Readiness:
    """Answer whether database and broker are available. Without a worker jobs are accepted and wait: a warning."""
    if unavailable := find_unavailable_servers():
        detail = f"no answer from: {', '.join(unavailable)}"
        raise ServiceError(ErrorCode.NOT_READY, detail, headers={"Retry-After": "2"})
    return Readiness(warnings=find_fleet_warnings())
