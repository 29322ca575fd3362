"""Liveness and readiness of the process."""

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from pydantic import BaseModel

from api.deps import JobFeedDep
from api.error_handlers import make_problem_responses
from api.errors import ErrorCode, ServiceError
from api.services.health import find_unavailable_servers

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The response of a healthy process."""

    status: str = "ok"


@router.get("/healthz", operation_id="healthz")
async def get_liveness() -> Health:
    """Answer while the process runs."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readyz",
    responses=make_problem_responses({503: "A server that the API needs does not answer."}),
)
async def get_readiness(feed: JobFeedDep) -> Health:
    """Answer whether database and broker are available."""
    if unavailable := await feed.share("readiness", _find_unavailable_servers):
        detail = f"no answer from: {', '.join(unavailable)}"
        raise ServiceError(ErrorCode.NOT_READY, detail, headers={"Retry-After": "2"})
    return Health()


async def _find_unavailable_servers() -> list[str]:
    """Ask in a thread of its own: probes wait for no request, and all at the same time share one look."""
    return await to_thread.run_sync(find_unavailable_servers, limiter=CapacityLimiter(1))
