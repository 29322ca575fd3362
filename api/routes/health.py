"""Is it alive, can it work."""

from fastapi import APIRouter
from pydantic import BaseModel
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from api.errors import ServiceError, make_problem_responses
from soul_store.database import transaction
from soul_store.outbox import make_broker_client

router = APIRouter(tags=["health"])


class Health(BaseModel):
    """The answer when all is well."""

    status: str = "ok"


@router.get("/healthz", operation_id="healthz")
def healthz() -> Health:
    """Say that the process lives."""
    return Health()


@router.get(
    "/readyz",
    operation_id="readyz",
    responses=make_problem_responses({503: "A server behind this one does not answer."}),
)
def readyz() -> Health:
    """Say whether database and broker answer."""
    away = []
    try:
        with transaction() as session:
            session.execute(text("SELECT 1 FROM tenants LIMIT 1"))
    except SQLAlchemyError:
        away.append("database")
    try:
        with make_broker_client() as client:
            client.ping()
    except (RedisError, OSError):
        away.append("broker")
    if away:
        raise ServiceError(503, "not_ready", f"no answer from: {', '.join(away)}", headers={"Retry-After": "2"})
    return Health()
