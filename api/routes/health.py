"""Liveness and readiness of the process."""

from anyio import CapacityLimiter, to_thread
from fastapi import APIRouter
from pydantic import BaseModel, Field

from api.deps import JobFeedDep
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
async def get_liveness() -> Health:
    """Answer while the process runs."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readyz",
    responses=make_problem_responses({503: "A server that the API needs does not answer."}),
)
async def get_readiness(feed: JobFeedDep) -> Readiness:
    """Answer whether database and broker are available. Without a worker jobs are accepted and wait: a warning."""
    unavailable, warnings = await feed.share("readiness", _look)
    if unavailable:
        detail = f"no answer from: {', '.join(unavailable)}"
        raise ServiceError(ErrorCode.NOT_READY, detail, headers={"Retry-After": "2"})
    return Readiness(warnings=warnings)


async def _look() -> tuple[list[str], list[str]]:
    """Ask in a thread of its own: probes wait for no request, and all at the same time share one look."""

    def look() -> tuple[list[str], list[str]]:
        unavailable = find_unavailable_servers()
        return unavailable, [] if unavailable else find_fleet_warnings()

    return await to_thread.run_sync(look, limiter=CapacityLimiter(1))
