"""create_app(): middleware, routers and error handlers. Run it by `uvicorn api.main:create_app --factory`."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from api.error_handlers import Problem, make_problem_responses, register_error_handlers
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
)
from api.schemas.datasets import DatasetCreate
from api.sendfile import offer_sendfile
from soul_core.log_config import configure_logging
from soul_store.blobs import BlobStoreUnavailable, get_blob_store
from soul_store.settings import LogSettings

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


class _Application(FastAPI):
    """Gives responses the means to send a file without copying it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await super().__call__(scope, receive, offer_sendfile(scope, send))


@asynccontextmanager
async def _check_files(_: FastAPI) -> AsyncIterator[None]:
    """Refuse to start with a store of files that cannot work; one that does not answer yet may answer later."""
    try:
        get_blob_store().check()
    except BlobStoreUnavailable as error:
        log.warning("the object store does not answer yet: %s", error)
    yield


def create_app() -> FastAPI:
    """Return the application."""
    _configure_logging()
    app = _Application(
        lifespan=_check_files,
        title="SOUL",
        summary="An open service that makes language models forget",
        description=_DESCRIPTION,
        version=version("soul-unlearning"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        redirect_slashes=False,
    )
    app.add_middleware(RequestContextMiddleware)
    register_error_handlers(app)
    for module in (keys, models, uploads, datasets, jobs, evaluations, events, logs, reports, artifacts, schemas):
        app.include_router(module.router, responses=make_problem_responses(_PROBLEM_TEXTS))
    app.include_router(health.router, responses=make_problem_responses({500: _PROBLEM_TEXTS[500]}))
    app.openapi = lambda: _make_openapi(app)  # type: ignore[method-assign]
    return app


def _configure_logging() -> None:
    """Log as SOUL_LOG_LEVEL and SOUL_LOG_FORMAT say, also what uvicorn logs, whatever its own options are."""
    settings = LogSettings()
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
