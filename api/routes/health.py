"""Liveness and readiness of the process."""

from fastapi import APIRouter
from pydantic import BaseModel

from api.error_handlers import make_problem_responses
from api.errors import ErrorCode, ServiceError
from api.services.health import find_unavailable_servers

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The response of a healthy process."""

    status: str = "ok"


@router.get("/healthz", operation_id="healthz")
def get_liveness() -> Health:
    """Answer while the process runs."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readyz",
    responses=make_problem_responses({503: "A server that the API needs does not answer."}),
)
def get_readiness() -> Health:
    """Answer whether database and broker are available."""
    if unavailable := find_unavailable_servers():
        detail = f"no answer from: {', '.join(unavailable)}"
        raise ServiceError(ErrorCode.NOT_READY, detail, headers={"Retry-After": "2"})
    return Health()
