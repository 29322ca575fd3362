"""create_app(): middleware, routers, error handler; nothing else. `uvicorn api.main:create_app --factory`."""

import logging
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI

from api import errors
from api.errors import Problem
from api.middleware import RequestContextMiddleware
from api.routes import account, artifacts, datasets, evaluations, health, jobs, logs, models, results, schemas, uploads
from api.schemas.inputs import DatasetCreate
from soul_core.log_config import configure_logging
from soul_store.settings import LogSettings

_DESCRIPTION = """\
Make language models forget, by second-order unlearning ([SOUL](https://arxiv.org/abs/2404.18239)).

Register a **model**, upload a **forget set** and a **retain set**, submit a **job**, follow its **events**, read its
**report**, download its **artifacts**. Or audit models with an **evaluation**, which changes
none. Every error is a problem document (RFC 9457) with a `code`, pointers to what is
wrong, and a `request_id`.
"""

#: What any operation may answer beside its result.
_PROBLEM_TEXTS = {
    400: "The request cannot be parsed.",
    401: "No valid API key.",
    403: "The key lacks a scope.",
    404: "Not there, or another project's.",
    409: "The resource's state does not allow it.",
    413: "Too large.",
    422: "Something in the request cannot be used; `errors` says what.",
    500: "The server's mistake.",
    503: "A server behind this one does not answer.",
}


def create_app() -> FastAPI:
    """Return the application."""
    _configure_logging()
    app = FastAPI(
        title="SOUL",
        summary="An open service that makes language models forget",
        description=_DESCRIPTION,
        version=version("soul-unlearning"),
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        redirect_slashes=False,
    )
    app.add_middleware(RequestContextMiddleware)
    errors.register_error_handlers(app)
    for module in (account, models, uploads, datasets, jobs, evaluations, results, logs, artifacts, schemas):
        app.include_router(module.router, responses=errors.make_problem_responses(_PROBLEM_TEXTS))
    app.include_router(health.router, responses=errors.make_problem_responses({500: _PROBLEM_TEXTS[500]}))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _configure_logging() -> None:
    """Log as SOUL_LOG_LEVEL and SOUL_LOG_FORMAT say, also what uvicorn logs, whatever its own options are."""
    settings = LogSettings()
    configure_logging(level=settings.log_level, output_format=settings.log_format)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], name != "uvicorn.access"  # api.access logs each request with its id
        logger.setLevel(logging.NOTSET)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Return the description, with the problem document and what routes read by hand among the schemas."""
    schema = FastAPI.openapi(app)
    schemas = schema["components"]["schemas"]
    for model in (Problem, DatasetCreate):
        described = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(described.pop("$defs", {}))
        schemas[model.__name__] = described
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    return schema
