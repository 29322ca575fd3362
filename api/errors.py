"""The errors that services raise. `api.error_handlers` turns them into problem documents (RFC 9457)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import Field


class ErrorCode(StrEnum):
    """The kind of an error, stable across releases. docs/reference/errors.md explains each code."""

    status: int

    def __new__(cls, code: str, status: int) -> Self:
        """Make the member `code`, which is answered with the HTTP status `status`."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.status = status
        return member

    BAD_REQUEST = "bad_request", 400
    BAD_JSON = "bad_json", 400
    CUT_OFF = "cut_off", 400
    DIGEST_MISMATCH = "digest_mismatch", 400
    UNAUTHORIZED = "unauthorized", 401
    MISSING_SCOPE = "missing_scope", 403
    UNVERIFIED_MODEL = "unverified_model", 403
    LOCAL_MODELS_DISABLED = "local_models_disabled", 403
    NOT_FOUND = "not_found", 404
    METHOD_NOT_ALLOWED = "method_not_allowed", 405
    NOT_ALLOWED = "not_allowed", 409
    IN_USE = "in_use", 409
    NO_CONTENT = "no_content", 409
    HAS_CONTENT = "has_content", 409
    NO_REPORT = "no_report", 409
    NO_ARTIFACTS = "no_artifacts", 409
    JOB_NOT_FINISHED = "job_not_finished", 409
    NO_CHECKPOINT = "no_checkpoint", 409
    NO_DOWNLOAD_URL = "no_download_url", 409
    IDEMPOTENCY_IN_FLIGHT = "idempotency_in_flight", 409
    TOO_LARGE = "too_large", 413
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type", 415
    NO_SUCH_RANGE = "no_such_range", 416
    INVALID_REQUEST = "invalid_request", 422
    INVALID_JOB = "invalid_job", 422
    UNSTORABLE_VALUE = "unstorable_value", 422
    BAD_ROWS = "bad_rows", 422
    UNREADABLE_DATASET = "unreadable_dataset", 422
    UNUSABLE_MODEL = "unusable_model", 422
    UNKNOWN_SCOPE = "unknown_scope", 422
    BAD_IDEMPOTENCY_KEY = "bad_idempotency_key", 422
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused", 422
    INTERNAL_ERROR = "internal_error", 500
    PDF_UNAVAILABLE = "pdf_unavailable", 501
    HUB_ERROR = "hub_error", 502
    HUB_UNREACHABLE = "hub_unreachable", 503
    DATABASE_UNAVAILABLE = "database_unavailable", 503
    BUSY = "busy", 503
    STORAGE_UNAVAILABLE = "storage_unavailable", 503
    NOT_READY = "not_ready", 503
    STORAGE_FULL = "storage_full", 507


@dataclass(frozen=True)
class RequestProblem:
    """One problem of a request, and where it is."""

    pointer: Annotated[
        str, Field(description="JSON pointer into the body (/spec/optimizer/lr), or /rows/17, /query/limit.")
    ]
    detail: str


class ServiceError(Exception):
    """A request that cannot be served. `extra` are further members of the problem document."""

    def __init__(
        self,
        code: ErrorCode,
        detail: str,
        *,
        problems: Sequence[RequestProblem] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.code, self.detail = code, detail
        self.problems = tuple(problems)
        self.headers = dict(headers or {})
        self.extra = extra


def make_not_found_error(resource: str) -> ServiceError:
    """Return the error for a resource that does not exist or belongs to another project; both look the same."""
    return ServiceError(ErrorCode.NOT_FOUND, f"there is no {resource}")
