"""What becomes of a job when its attempt ends: the table, and its row for a given exit of the engine."""

import errno
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from soul_core.errors import (
    BadData,
    BadModel,
    BadSpec,
    DiskFull,
    EngineError,
    ExitCode,
    OutOfMemory,
    RunCancelledError,
    RunInterruptedError,
    TrainingDivergedError,
    UserError,
)
from soul_store import metrics
from soul_store.blobs import StorageFull
from soul_store.job_costs import NewJobCost
from soul_store.job_leases import NewArtifact, StopCause
from soul_store.job_state_machine import make_status_reason
from soul_store.job_status import JobStatus
from worker.supervisor import EngineExit, describe_exit
from worker.workspace import WorkspaceBusy

_DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT})

#: How an engine ends: by an EngineError, by itself with an exit code, or by a signal.
EngineEnd = type[EngineError] | ExitCode | Literal["signal"]


@dataclass(frozen=True)
class Ending:
    """The job's next status.

    After `SOUL_MAX_ATTEMPTS` endings with `counts_as_attempt`, the job fails instead of being requeued. `is_retryable`
    tells the user that the same job may succeed if it is submitted again.
    """

    status: JobStatus
    counts_as_attempt: bool = False
    is_retryable: bool = False


_USER_FAULT = Ending(JobStatus.FAILED)
_FAILED = Ending(JobStatus.FAILED, is_retryable=True)
_INFRASTRUCTURE = Ending(JobStatus.QUEUED, counts_as_attempt=True, is_retryable=True)

#: THE table. A test checks that every subclass of EngineError is in it.
ENDINGS: Mapping[EngineEnd, Ending] = {
    ExitCode.OK: Ending(JobStatus.SUCCEEDED),
    # the request is wrong: another attempt cannot succeed
    BadSpec: _USER_FAULT,
    BadData: _USER_FAULT,
    BadModel: _USER_FAULT,
    UserError: _USER_FAULT,
    # the run failed for a reason of its own
    TrainingDivergedError: _FAILED,
    OutOfMemory: _FAILED,
    EngineError: _FAILED,
    # the run stopped on request
    RunCancelledError: Ending(JobStatus.CANCELLED),
    RunInterruptedError: Ending(JobStatus.QUEUED),
    # another attempt may succeed, on another machine or after a repair
    DiskFull: _INFRASTRUCTURE,
    ExitCode.CRASH: _INFRASTRUCTURE,
    "signal": _INFRASTRUCTURE,
}


#: Nothing is kept of a job that reached a limit: a retry is a new job, which starts from the beginning.
_LIMIT_MESSAGES = {
    StopCause.DEADLINE: "the job had not finished by its deadline and was stopped; retry it with a later one",
    StopCause.GPU_SECONDS: "the job has used its max_gpu_seconds and was stopped; retry it with more",
}

#: Codes of reasons that the table does not have: how a process or a machine failed.
_OTHER_CODES = frozenset({"engine_died", "worker_busy", "disk_full", "worker_error"})
_KINDS = {(kind.code, int(kind.exit_code)): kind for kind in ENDINGS if isinstance(kind, type)}


@dataclass(frozen=True)
class Outputs:
    """What a successful attempt published."""

    verdict: str
    report_blob: str
    artifacts: list[NewArtifact]
    cost: NewJobCost | None = None


@dataclass(frozen=True)
class AttemptEnd:
    """How an attempt ended, as the job's row stores it. `reason` is {code, message, retryable, details}."""

    ending: Ending
    reason: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, float] = field(default_factory=dict)
    outputs: Outputs | None = None


def conclude_exit(engine_exit: EngineExit, stop_cause: StopCause | None, *, uses_gpu: bool = False) -> AttemptEnd:
    """Return how an attempt ends whose engine exited like this."""
    key, reason = _classify_exit(engine_exit, stop_cause)
    seconds = round(engine_exit.seconds, 3)
    usage = {"engine_seconds": seconds, "gpu_seconds": seconds if uses_gpu else 0.0, "flops": 0.0}
    ending = ENDINGS[key]
    if key is RunCancelledError and stop_cause is not None and stop_cause.is_limit:
        ending, reason = _FAILED, make_status_reason(stop_cause, _LIMIT_MESSAGES[stop_cause])
    return AttemptEnd(ending, {**reason, "retryable": ending.is_retryable}, usage)


def _classify_exit(engine_exit: EngineExit, stop_cause: StopCause | None) -> tuple[EngineEnd, dict[str, Any]]:
    """Return the key of the table, and the reason."""
    returncode, failure = engine_exit.returncode, engine_exit.failed_event
    if returncode == ExitCode.OK:
        return ExitCode.OK, {}
    if returncode < 0 and engine_exit.checkpoint_requested:
        # killed because its checkpoint took longer than the grace period: it resumes from an older one
        return RunInterruptedError, {}
    if returncode < 0 and stop_cause not in {None, StopCause.PAUSE}:
        return RunCancelledError, {}
    if failure is None:
        message = f"the engine process died ({describe_exit(returncode)})"
        return "signal" if returncode < 0 else ExitCode.CRASH, make_status_reason("engine_died", message)
    reason = make_status_reason(failure.data["code"], failure.data["message"])
    kind = _KINDS.get((failure.data["code"], returncode), ExitCode.CRASH)
    return kind, {**reason, "details": list(failure.data.get("details", ()))}


def conclude_worker_error(error: Exception) -> AttemptEnd:
    """Return how an attempt ends whose worker failed like this."""
    if isinstance(error, WorkspaceBusy):
        code, message = "worker_busy", "an earlier attempt still held the job's folder"
    elif isinstance(error, StorageFull) or (isinstance(error, OSError) and error.errno in _DISK_FULL_ERRNOS):
        code, message = "disk_full", "the worker's disk is full; free some space and submit the job again"
    else:
        code = "worker_error"
        message = f"{type(error).__name__} in the worker; the operator finds the traceback in the worker's log"
    return AttemptEnd(_INFRASTRUCTURE, make_status_reason(code, message, retryable=True))


def count_end(status: JobStatus, end: AttemptEnd) -> None:
    """Count an attempt that ended, and what its engine used. A code that is not in the table counts as "other"."""
    code = end.reason.get("code", "")
    known = {kind_code for kind_code, _ in _KINDS} | _OTHER_CODES | {""}
    metrics.ATTEMPTS.labels(status, code if code in known else metrics.OTHER).inc()
    metrics.ENGINE_SECONDS.inc(end.usage.get("engine_seconds", 0))
    metrics.GPU_SECONDS.inc(end.usage.get("gpu_seconds", 0))
