"""ServiceError and the one way every error leaves: RFC 9457 problem details with a code, pointers and a request id."""

import difflib
import logging
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class FieldError(BaseModel):
    """One fault inside a request."""

    pointer: str = Field(description="JSON pointer into the body (/spec/optimizer/lr), or /rows/17, /query/limit.")
    detail: str


class Problem(BaseModel):
    """An error, as RFC 9457 has it."""

    type: str = Field("about:blank", description="Always about:blank: `code` tells the errors apart.")
    title: str
    status: int
    code: str = Field(description="Stable word for programs.")
    detail: str = Field(description="What is wrong and what to do, for people.")
    errors: list[FieldError] = Field(default_factory=list)
    request_id: str = Field(description="Also in the X-Request-Id header; the server's log has it.")


class ServiceError(Exception):
    """A request cannot be served. Becomes a problem document; `extra` are further members of it."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail
        self.errors = [FieldError(pointer=pointer, detail=text) for pointer, text in errors]
        self.headers = dict(headers or {})
        self.extra = extra


def not_found(what: str, pointer: str | None = None) -> ServiceError:
    """Return the error for something that is not there, or not this tenant's: both look the same."""
    detail = f"there is no {what}"
    return ServiceError(404, "not_found", detail, errors=[(pointer, detail)] if pointer else ())


def problem_response(request: Request, error: ServiceError) -> JSONResponse:
    """Return the error as a response."""
    problem = Problem(
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        code=error.code,
        detail=error.detail,
        errors=error.errors,
        request_id=request_id(request),
    )
    body = problem.model_dump() | error.extra
    return JSONResponse(body, error.status, headers=error.headers, media_type=MEDIA_TYPE)


def request_id(request: Request) -> str:
    """Return the id the middleware gave this request."""
    return str(getattr(request.state, "request_id", ""))


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _crash)


def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return problem_response(request, error)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    """Errors of the framework itself: unknown paths, wrong methods, bodies it cannot parse."""
    assert isinstance(error, HTTPException)
    details = {
        404: ("not_found", f"there is nothing at {request.url.path}; the API is described at /docs"),
        405: ("method_not_allowed", f"{request.url.path} does not take {request.method}"),
    }
    fallback = (HTTPStatus(error.status_code).name.lower(), str(error.detail))
    code, detail = details.get(error.status_code, fallback)
    return problem_response(request, ServiceError(error.status_code, code, detail, headers=error.headers))


def _crash(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s crashed", request_id(request), exc_info=error)
    detail = f"the server made a mistake; its log has the request id {request_id(request)}"
    return problem_response(
        request, ServiceError(500, "internal_error", detail, headers={"X-Request-Id": request_id(request)})
    )


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        reason = found[0].get("ctx", {}).get("error", "it does not parse")
        return problem_response(request, ServiceError(400, "bad_json", f"the body is not JSON: {reason}"))
    errors = [(_pointer(each, error.body), explain(each)) for each in found]
    detail = errors[0][1] if len(errors) == 1 else f"{len(errors)} things in the request cannot be used"
    return problem_response(request, ServiceError(422, "invalid_request", detail, errors=errors))


def explain(error: Mapping[str, Any]) -> str:
    """Say a validation error in words, the near spelling included."""
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
        near = difflib.get_close_matches(str(context["tag"]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        return f"unknown kind '{context['tag']}'; {hint}known: {', '.join(known)}"
    if error["type"] == "union_tag_not_found":
        return "give a 'kind', or leave the whole object out for the default"
    if error["type"] == "extra_forbidden":
        return f"unknown key '{error['loc'][-1]}'"
    return str(error["msg"]).removeprefix("Value error, ")


def _pointer(error: Mapping[str, Any], body: Any) -> str:
    """Turn pydantic's path into a JSON pointer: it also names the chosen member of a union, which no body has."""
    place, *path = error["loc"] or ("body",)
    if place != "body":
        return "/".join(["", str(place), *map(str, path)])
    parts: list[str] = []
    current = body
    for part in path:
        if isinstance(current, dict) and part not in current and current.get("kind", current.get("source")) == part:
            continue
        parts.append(str(part).replace("~", "~0").replace("/", "~1"))
        try:
            current = current[part]
        except (KeyError, IndexError, TypeError):
            current = None
    if error["type"] == "unknown_key":
        parts.append(str(error["ctx"]["keys"][0]))
    return "".join(f"/{part}" for part in parts)
