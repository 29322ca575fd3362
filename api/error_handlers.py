"""Turns every error into a problem document (RFC 9457) with a code, pointers and the request's id."""

import logging
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.routing import Match

from api.errors import ErrorCode, RequestProblem, ServiceError
from api.validation import make_request_problems
from soul_store.blobs import BlobStoreUnavailable

log = logging.getLogger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"
#: Problems that a response lists; `errors_omitted` counts the others.
MAX_PROBLEMS = 100
_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


class Problem(BaseModel):
    """An error as a problem document (RFC 9457)."""

    type: str = Field("about:blank", description="Always about:blank: `code` distinguishes the errors.")
    title: str
    status: int
    code: ErrorCode = Field(description="Stable; docs/reference/errors.md lists the codes.")
    detail: str = Field(description="The problem and its remedy, for display.")
    errors: list[RequestProblem] = Field(default_factory=list, description="At most 100.")
    errors_omitted: int = Field(0, description="Number of further problems, as far as they were counted.")
    request_id: str = Field(description="Also in the X-Request-Id header; the server's log has it.")


def make_problem_responses(problems: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return problems (status -> when) as an operation declares them in the OpenAPI description."""
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content} for status, text in problems.items()}


def make_problem_response(request: Request, error: ServiceError, *, status: int | None = None) -> JSONResponse:
    """Return the error as a response; `status` replaces the code's own."""
    status = status or error.code.status
    omitted = len(error.problems) - MAX_PROBLEMS
    problem = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        code=error.code,
        detail=error.detail,
        errors=list(error.problems[:MAX_PROBLEMS]),
        request_id=get_request_id(request),
    )
    body = problem.model_dump(mode="json") | {"errors_omitted": max(omitted, 0)} | error.extra
    return JSONResponse(body, status, headers=error.headers, media_type=PROBLEM_MEDIA_TYPE)


def format_body_limit(max_bytes: int) -> str:
    """Return the message about a body that exceeds its limit."""
    return f"the body may have at most {max_bytes} bytes; send a smaller one"


def get_request_id(request: Request) -> str:
    """Return the id that the middleware gave this request."""
    return str(getattr(request.state, "request_id", ""))


def register_error_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(ServiceError, _handle_service_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(HTTPException, handle_http_error)
    app.add_exception_handler(DataError, _handle_unstorable_value)
    for unavailable in (OperationalError, PoolTimeoutError):
        app.add_exception_handler(unavailable, _handle_unavailable_database)
    app.add_exception_handler(BlobStoreUnavailable, _handle_unavailable_storage)
    app.add_exception_handler(Exception, _handle_crash)


def _handle_service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return make_problem_response(request, error)


def _handle_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    if any(entry["type"] == "json_invalid" for entry in errors):
        reason = errors[0].get("ctx", {}).get("error", "it does not parse")
        return make_problem_response(request, ServiceError(ErrorCode.BAD_JSON, f"the body is not JSON: {reason}"))
    all_problems = (problem for entry in errors for problem in make_request_problems(entry, error.body))
    problems = list(islice(all_problems, MAX_PROBLEMS))
    count = str(len(problems)) if len(problems) < MAX_PROBLEMS else f"at least {MAX_PROBLEMS}"
    omitted = max(0, len(errors) - MAX_PROBLEMS)
    detail = problems[0].detail if len(problems) == 1 else f"the request has {count} problems: see 'errors'"
    return make_problem_response(
        request, ServiceError(ErrorCode.INVALID_REQUEST, detail, problems=problems, errors_omitted=omitted)
    )


def handle_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer an error of the framework itself: an unknown path, a wrong method, a body that it cannot parse."""
    assert isinstance(error, HTTPException)
    path = request.url.path
    codes = {
        404: (ErrorCode.NOT_FOUND, f"there is nothing at {path}; the API is described at /docs"),
        405: (ErrorCode.METHOD_NOT_ALLOWED, f"{path} does not accept {request.method}"),
        413: (ErrorCode.TOO_LARGE, format_body_limit(request.scope.get(MAX_BODY_SIZE_SCOPE_KEY, 0))),
    }
    fallback = ErrorCode.BAD_REQUEST if error.status_code < 500 else ErrorCode.INTERNAL_ERROR
    code, detail = codes.get(error.status_code, (fallback, str(error.detail)))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_list_methods(request))
    return make_problem_response(request, ServiceError(code, detail, headers=headers), status=error.status_code)


def _list_methods(request: Request) -> list[str]:
    """Return every method that this path accepts: the framework names only those of the first route that matches."""
    scope = {"type": "http", "path": request.scope["path"], "root_path": request.scope.get("root_path", "")}
    routes = request.app.routes
    return [
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    ]


def _handle_unstorable_value(request: Request, error: Exception) -> JSONResponse:
    """Answer a value that the database cannot store. No column refuses what a spec or a file may reasonably contain."""
    log.info("request %s has a value that cannot be stored", get_request_id(request), exc_info=error)
    detail = "a text of the request contains a NUL character, or a number is out of range; neither can be stored"
    return make_problem_response(request, ServiceError(ErrorCode.UNSTORABLE_VALUE, detail))


def _handle_unavailable_database(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s could not use the database", get_request_id(request), exc_info=error)
    detail = "the database does not answer; nothing was changed, try again"
    return make_problem_response(
        request, ServiceError(ErrorCode.DATABASE_UNAVAILABLE, detail, headers={"Retry-After": "2"})
    )


def _handle_unavailable_storage(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s could not use the object store", get_request_id(request), exc_info=error)
    detail = "the object store does not answer, or refuses the service; nothing was changed, try again"
    return make_problem_response(
        request, ServiceError(ErrorCode.STORAGE_UNAVAILABLE, detail, headers={"Retry-After": "5"})
    )


def _handle_crash(request: Request, error: Exception) -> JSONResponse:
    request_id = get_request_id(request)
    # the handler runs outside the middleware, which adds the id to all other records
    log.error("request %s crashed", request_id, exc_info=error, extra={"request_id": request_id})
    detail = f"internal error; the server's log has the cause under the request id {request_id}"
    return make_problem_response(
        request, ServiceError(ErrorCode.INTERNAL_ERROR, detail, headers={"X-Request-Id": request_id})
    )
