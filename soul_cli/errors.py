"""Errors of the client, and the exit codes of the command line."""

from enum import IntEnum
from typing import Any

import httpx2


class CliExitCode(IntEnum):
    """Exit codes of `soul`. `EXIT_MEANINGS` describes them in `soul --help`."""

    OK = 0
    UNEXPECTED = 1
    BAD_INPUT = 2
    JOB_FAILED = 3
    NOT_PASSED = 4
    JOB_CANCELLED = 5
    UNREACHABLE = 6
    UNAUTHORIZED = 7
    REFUSED = 8
    DAMAGED = 9
    NOT_WORKING = 10
    INTERRUPTED = 130


EXIT_MEANINGS: dict[CliExitCode, str] = {
    CliExitCode.OK: "done",
    CliExitCode.UNEXPECTED: "unexpected error: a server error, or a bug in this program",
    CliExitCode.BAD_INPUT: "bad input: an option, a file, a spec or a dataset",
    CliExitCode.JOB_FAILED: "the job failed",
    CliExitCode.NOT_PASSED: "the job ran, but its verdict is not 'passed'",
    CliExitCode.JOB_CANCELLED: "the job was cancelled",
    CliExitCode.UNREACHABLE: "no server could be reached",
    CliExitCode.UNAUTHORIZED: "the API key is missing, wrong, or lacks a scope",
    CliExitCode.REFUSED: "not found, or not possible in the current state",
    CliExitCode.DAMAGED: "a file differs from its digest, or an exported model from the measured one",
    CliExitCode.NOT_WORKING: "`soul doctor` found an error",
    CliExitCode.INTERRUPTED: "stopped by Ctrl-C (a submitted job keeps running)",
}


class SoulError(Exception):
    """The service refused a request, or could not be reached.

    `errors` is the list of a problem document (RFC 9457): {pointer, detail}. `extra` holds its other members.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str = "client_error",
        errors: list[dict[str, Any]] | None = None,
        request_id: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.errors = errors or []
        self.request_id = request_id
        self.extra = extra or {}

    @property
    def exit_code(self) -> CliExitCode:
        """The exit code with which this error ends the command line."""
        if self.status is None:
            return CliExitCode.UNEXPECTED
        if self.status in {401, 403}:
            return CliExitCode.UNAUTHORIZED
        if self.status in {404, 409, 410, 412, 428}:
            return CliExitCode.REFUSED
        return CliExitCode.BAD_INPUT if self.status < 500 else CliExitCode.UNEXPECTED

    def as_dict(self) -> dict[str, Any]:
        """Return the error as `--json` prints it."""
        known = {"status": self.status, "code": self.code, "detail": self.detail, "errors": self.errors}
        return {**self.extra, **known, "request_id": self.request_id}


class BadInput(SoulError):
    """The user's input is wrong; no request was sent."""

    @property
    def exit_code(self) -> CliExitCode:
        return CliExitCode.BAD_INPUT


class ServerUnreachable(SoulError):
    """The server did not answer, after all retries."""

    @property
    def exit_code(self) -> CliExitCode:
        return CliExitCode.UNREACHABLE


class BadAnswer(SoulError):
    """The server answered with something that cannot be read: a redirect loop, a broken encoding, no JSON."""


class DamagedDownload(SoulError):
    """A downloaded file differs from its entry in the manifest."""

    @property
    def exit_code(self) -> CliExitCode:
        return CliExitCode.DAMAGED


def parse_problem(response: httpx2.Response) -> SoulError:
    """Return the SoulError of a response with status 400 or above, whose body has been read."""
    try:
        body = response.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        text = response.text.strip()[:300] or response.reason_phrase
        return SoulError(f"HTTP {response.status_code}: {text}", status=response.status_code, code="http_error")
    known = {"status", "code", "detail", "errors", "request_id"}
    return SoulError(
        str(body.get("detail") or body.get("title") or response.reason_phrase),
        status=response.status_code,
        code=str(body.get("code") or "http_error"),
        errors=[error for error in body.get("errors") or [] if isinstance(error, dict)],
        request_id=body.get("request_id") or response.headers.get("x-request-id"),
        extra={key: value for key, value in body.items() if key not in known},
    )
