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
from sqlalchemy.exc import DataError, OperationalError
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from starlette.exceptions import HTTPException
from starlette.routing import Match

log = logging.getLogger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"


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


def make_problem_responses(problems: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Return problems (status -> when) as an operation declares them in the OpenAPI description."""
    content = {PROBLEM_MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": text, "content": content} for status, text in problems.items()}


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


def make_not_found_error(what: str, pointer: str | None = None) -> ServiceError:
    """Return the error for something that is not there, or not this tenant's: both look the same."""
    detail = f"there is no {what}"
    return ServiceError(404, "not_found", detail, errors=[(pointer, detail)] if pointer else ())


def make_problem_response(request: Request, error: ServiceError) -> JSONResponse:
    """Return the error as a response."""
    problem = Problem(
        title=HTTPStatus(error.status).phrase,
        status=error.status,
        code=error.code,
        detail=error.detail,
        errors=error.errors,
        request_id=get_request_id(request),
    )
    body = problem.model_dump() | error.extra
    return JSONResponse(body, error.status, headers=error.headers, media_type=PROBLEM_MEDIA_TYPE)


def get_request_id(request: Request) -> str:
    """Return the id the middleware gave this request."""
    return str(getattr(request.state, "request_id", ""))


def register_error_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem document."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(DataError, _unstorable)
    for away in (OperationalError, NoFreeConnection):
        app.add_exception_handler(away, _database_away)
    app.add_exception_handler(Exception, _crash)


def _service_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ServiceError)
    return make_problem_response(request, error)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    """Errors of the framework itself: unknown paths, wrong methods, bodies it cannot parse."""
    assert isinstance(error, HTTPException)
    details = {
        404: ("not_found", f"there is nothing at {request.url.path}; the API is described at /docs"),
        405: ("method_not_allowed", f"{request.url.path} does not take {request.method}"),
        413: ("too_large", str(error.detail)),
    }
    fallback = (HTTPStatus(error.status_code).name.lower(), str(error.detail))
    code, detail = details.get(error.status_code, fallback)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_methods_at(request))
    return make_problem_response(request, ServiceError(error.status_code, code, detail, headers=headers))


def _methods_at(request: Request) -> list[str]:
    """Return every method this path takes: the framework names only those of the first route it finds."""
    path = {"type": "http", "path": request.scope["path"], "root_path": request.scope.get("root_path", "")}
    known = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")
    routes = request.app.routes
    return [method for method in known if any(r.matches({**path, "method": method})[0] is Match.FULL for r in routes)]


def _unstorable(request: Request, error: Exception) -> JSONResponse:
    """The database cannot hold a value: no column of ours refuses what a spec or a file may reasonably say."""
    log.info("request %s has a value that cannot be stored", get_request_id(request), exc_info=error)
    detail = "a text in the request contains a NUL character, or a number is out of range; no such thing can be stored"
    return make_problem_response(request, ServiceError(422, "unstorable_value", detail))


def _database_away(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s could not use the database", get_request_id(request), exc_info=error)
    detail = "the database does not answer; nothing was changed, try again"
    return make_problem_response(
        request, ServiceError(503, "database_unavailable", detail, headers={"Retry-After": "2"})
    )


def _crash(request: Request, error: Exception) -> JSONResponse:
    log.error("request %s crashed", get_request_id(request), exc_info=error)
    detail = f"the server made a mistake; its log has the request id {get_request_id(request)}"
    return make_problem_response(
        request, ServiceError(500, "internal_error", detail, headers={"X-Request-Id": get_request_id(request)})
    )


def _validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if any(each["type"] == "json_invalid" for each in found):
        reason = found[0].get("ctx", {}).get("error", "it does not parse")
        return make_problem_response(request, ServiceError(400, "bad_json", f"the body is not JSON: {reason}"))
    errors = [fault for each in found for fault in _faults(each, error.body)]
    detail = errors[0][1] if len(errors) == 1 else f"{len(errors)} things in the request cannot be used"
    return make_problem_response(request, ServiceError(422, "invalid_request", detail, errors=errors))


def _faults(error: Mapping[str, Any], body: Any) -> list[tuple[str, str]]:
    """Return a validation error as (pointer, detail): one, but for refused keys, which come bundled."""
    pointer = _pointer(error, body)
    if error["type"] != "refused_key":
        return [(pointer, format_validation_error(error))]
    keys, hints = error["ctx"]["keys"], str(error["ctx"]["hints"]).split(" | ")
    if len(keys) != len(hints):  # a key that holds the separator itself
        hints = [str(error["ctx"]["hints"])] * len(keys)
    return [(f"{pointer}/{_escaped(key)}", hint) for key, hint in zip(keys, hints, strict=True)]


def format_validation_error(error: Mapping[str, Any]) -> str:
    """Say a validation error in words, the near spelling included."""
    context = error.get("ctx", {})
    if error["type"] == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in str(context["expected_tags"]).split(",")]
        near = difflib.get_close_matches(str(context["tag"]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'? " if near else ""
        tag = str(context["discriminator"]).strip("'")
        return f"unknown {tag} '{context['tag']}'; {hint}known: {', '.join(known)}"
    if error["type"] == "union_tag_not_found":
        return f"{context['discriminator']} is missing: it says which of the choices this is"
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
        if part == "[key]":  # pydantic's mark that the key itself is wrong; the part before it is that key
            continue
        if isinstance(current, dict) and part not in current and error["type"] != "missing":
            continue  # the kind of a union's member, written in the body or the default
        parts.append(_escaped(part))
        try:
            current = current[part]
        except (KeyError, IndexError, TypeError):
            current = None
    if error["type"] in {"union_tag_invalid", "union_tag_not_found"}:
        parts.append(str(error["ctx"]["discriminator"]).strip("'"))
    return "".join(f"/{part}" for part in parts)


def _escaped(part: object) -> str:
    return str(part).replace("~", "~0").replace("/", "~1")
