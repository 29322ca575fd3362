"""create_app(): middleware, routers and error handlers. Run it by `uvicorn api.main:create_app --factory`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from api.capacity import Places
from api.error_handlers import Problem, make_problem_responses, register_error_handlers
from api.job_feed import JobFeed
from api.json_guard import JsonGuardMiddleware
from api.middleware import RequestContextMiddleware
from api.routes import (
    artifacts,
    datasets,
    evaluations,
    events,
    health,
    jobs,
    keys,
    logs,
    models,
    reports,
    schemas,
    uploads,
    workers,
)
from api.schemas.datasets import DatasetCreate
from api.sendfile import offer_sendfile
from api.services.datasets import remove_left_uploads
from api.telemetry import TelemetryMiddleware
from soul_core import tracing
from soul_core.log_config import configure_logging
from soul_store.blobs import BlobStoreUnavailable, get_blob_store
from soul_store.metrics import start_metrics_server
from soul_store.settings import ProcessSettings, get_settings

log = logging.getLogger(__name__)

_DESCRIPTION = """\
Make language models forget, by second-order unlearning ([SOUL](https://arxiv.org/abs/2404.18239)).

Register a **model**, upload a **forget set** and a **retain set**, submit a **job**, follow its **events**, read its
**report**, download its **artifacts**. Or audit models with an **evaluation**, which changes none. Every error is a
problem document (RFC 9457) with a `code`, pointers to the parts of the request that are wrong, and a `request_id`.
"""

#: Errors that any operation may answer.
_PROBLEM_TEXTS = {
    400: "The request cannot be parsed.",
    401: "No valid API key.",
    403: "The key lacks a scope.",
    404: "The resource does not exist, or belongs to another project.",
    409: "The state of the resource does not allow it.",
    413: "The body is too large.",
    422: "The request has problems; `errors` lists them.",
    500: "An internal error.",
    503: "A server that the API needs does not answer.",
}


#: An upload may wait for others to be read and checked, as long as its client is likely to.
_UPLOAD_WAIT_SECONDS = 120.0


class _Application(FastAPI):
    """Gives responses the means to send a file without copying it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, offer_sendfile(scope, send))


def create_app() -> FastAPI:
    """Return the application."""
    _configure_logging()
    app = _Application(
        title="SOUL",
        summary="An open service that makes language models forget",
        description=_DESCRIPTION,
        version=version("soul-unlearning"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        redirect_slashes=False,
        lifespan=_prepare,
    )
    app.add_middleware(JsonGuardMiddleware)
    app.add_middleware(RequestContextMiddleware)
    app.add_middleware(TelemetryMiddleware)  # the outermost: it measures what the others do, too
    register_error_handlers(app)
    modules = (keys, models, uploads, datasets, jobs, evaluations, events, logs, reports, artifacts, workers, schemas)
    for module in modules:
        app.include_router(module.router, responses=make_problem_responses(_PROBLEM_TEXTS))
    app.include_router(health.router, responses=make_problem_responses({500: _PROBLEM_TEXTS[500]}))
    app.openapi = lambda: _make_openapi(app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _prepare(app: FastAPI) -> AsyncIterator[None]:
    """Prepare what all requests share, and serve metrics and send traces if the settings ask for it.

    The settings are read here: the OpenAPI snapshot needs none. A store of files that cannot work ends the start.
    """
    try:
        get_blob_store().check()
    except BlobStoreUnavailable as error:
        log.warning("the object store does not answer yet: %s", error)  # it may answer later
    settings = get_settings()
    app.state.places = Places(
        settings.api_concurrency, max_waiting=settings.api_max_waiting, wait_seconds=settings.api_wait_seconds
    )
    app.state.upload_places = Places(
        settings.max_concurrent_uploads, max_waiting=settings.api_max_waiting, wait_seconds=_UPLOAD_WAIT_SECONDS
    )
    app.state.job_feed = JobFeed()
    remove_left_uploads()
    start_metrics_server(settings)
    tracing.start_tracing("soul-api")
    async with app.state.job_feed.running():
        yield
    tracing.stop_tracing()


def _configure_logging() -> None:
    """Log as SOUL_LOG_LEVEL and SOUL_LOG_FORMAT say, also what uvicorn logs, whatever its own options are."""
    settings = ProcessSettings()
    configure_logging(level=settings.log_level, output_format=settings.log_format)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], name != "uvicorn.access"  # api.access logs each request with its id
        logger.setLevel(logging.NOTSET)


def _make_openapi(app: FastAPI) -> dict[str, Any]:
    """Return the description, with the schemas of problems and of the bodies that routes parse themselves."""
    schema = FastAPI.openapi(app)
    schemas = schema["components"]["schemas"]
    for model in (Problem, DatasetCreate):
        model_schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(model_schema.pop("$defs", {}))
        schemas[model.__name__] = model_schema
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return schema
