"""The table of endings covers every way in which an engine can end."""

import errno
import signal
from collections.abc import Iterator

import pytest

from soul_core.errors import BadData, DiskFull, EngineError, ExitCode, RunCancelledError, RunInterruptedError, UserError
from soul_core.events import Event
from soul_store.blobs import StorageFull
from soul_store.job_leases import StopCause
from worker.endings import ENDINGS, conclude_exit, conclude_worker_error
from worker.supervisor import EngineExit
from worker.workspace import WorkspaceBusy


def list_error_kinds(kind: type[EngineError] = EngineError) -> Iterator[type[EngineError]]:
    """Yield the classes with a code of their own: only the code and the exit code leave the engine's process."""
    if {"code", "exit_code"} & vars(kind).keys():
        yield kind
    for subclass in kind.__subclasses__():
        yield from list_error_kinds(subclass)


def make_exit(returncode: int, *, code: str | None = None, drained: bool = False) -> EngineExit:
    data = {"code": code, "message": "what went wrong", "details": ["row 7"]}
    return EngineExit(returncode, drained, Event(kind="failed", data=data) if code else None, seconds=1.5)


def test_every_error_of_the_engine_is_in_the_table() -> None:
    assert {kind for kind in ENDINGS if isinstance(kind, type)} == set(list_error_kinds())


@pytest.mark.parametrize("kind", [*list_error_kinds()])
def test_an_error_ends_the_job_as_its_row_of_the_table_says(kind: type[EngineError]) -> None:
    end = conclude_exit(make_exit(kind.exit_code, code=kind.code), None)

    assert end.ending == ENDINGS[kind]
    assert end.reason == {
        "code": kind.code,
        "message": "what went wrong",
        "retryable": ENDINGS[kind].is_retryable,
        "details": ["row 7"],
    }
    assert end.usage["engine_seconds"] == 1.5


@pytest.mark.parametrize("kind", [*list_error_kinds()])
def test_a_users_mistake_is_never_retried(kind: type[EngineError]) -> None:
    ending = ENDINGS[kind]

    assert issubclass(kind, UserError) == (ending.status == "failed" and not ending.is_retryable)
    assert ending.counts_as_attempt == (kind is DiskFull)


@pytest.mark.parametrize(
    ("engine_exit", "stop_cause", "status", "counts"),
    [
        (make_exit(ExitCode.OK), None, "succeeded", False),
        (make_exit(ExitCode.CRASH, code="crash"), None, "queued", True),
        (make_exit(-signal.SIGKILL), None, "queued", True),
        (make_exit(-signal.SIGSEGV), None, "queued", True),
        (make_exit(-signal.SIGKILL, drained=True), None, "queued", False),
        (make_exit(-signal.SIGKILL), StopCause.CANCEL, "cancelled", False),
        (make_exit(-signal.SIGKILL), StopCause.DEADLINE, "failed", False),
        (make_exit(-signal.SIGKILL), StopCause.PAUSE, "queued", True),
        (make_exit(2), None, "queued", True),
        (make_exit(77, code="from_a_newer_engine"), None, "queued", True),
    ],
    ids=[
        "ok",
        "crash",
        "killed",
        "segfault",
        "killed in a drain",
        "killed in a cancel",
        "killed at the deadline",
        "died before a pause",
        "no event",
        "unknown code",
    ],
)
def test_every_other_exit_has_its_ending(
    engine_exit: EngineExit, stop_cause: StopCause | None, status: str, counts: bool
) -> None:
    end = conclude_exit(engine_exit, stop_cause)

    assert (end.ending.status, end.ending.counts_as_attempt) == (status, counts)


@pytest.mark.parametrize("cause", [cause for cause in StopCause if cause.is_limit])
def test_a_run_that_reached_a_limit_fails_with_its_code_and_a_remedy(cause: StopCause) -> None:
    cancelled = make_exit(RunCancelledError.exit_code, code=RunCancelledError.code)

    end = conclude_exit(cancelled, cause, uses_gpu=True)

    assert (end.ending.status, end.reason["code"], end.reason["retryable"]) == ("failed", cause, True)
    assert "retry it with" in end.reason["message"]
    assert end.usage["gpu_seconds"] == end.usage["engine_seconds"] == 1.5


def test_an_engine_that_died_without_a_report_is_described_by_its_exit() -> None:
    end = conclude_exit(make_exit(-signal.SIGKILL), None)

    assert end.reason["code"] == "engine_died"
    assert end.reason["message"] == "the engine process died (signal SIGKILL)"
    assert end.reason["retryable"] is True


def test_a_stop_on_request_is_neither_a_failure_nor_an_attempt() -> None:
    assert ENDINGS[RunCancelledError].status == "cancelled"
    assert (ENDINGS[RunInterruptedError].status, ENDINGS[RunInterruptedError].counts_as_attempt) == ("queued", False)
    assert ENDINGS[BadData].status == "failed"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (WorkspaceBusy(), "worker_busy"),
        (StorageFull(), "disk_full"),
        (OSError(errno.ENOSPC, "no space"), "disk_full"),
        (OSError(errno.EACCES, "not allowed"), "worker_error"),
        (KeyError("x"), "worker_error"),
    ],
)
def test_an_error_of_the_worker_is_retried_and_named(error: Exception, code: str) -> None:
    end = conclude_worker_error(error)

    assert (end.ending.status, end.ending.counts_as_attempt) == ("queued", True)
    assert (end.reason["code"], end.reason["retryable"]) == (code, True)
