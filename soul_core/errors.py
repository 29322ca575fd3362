"""Errors that end a run, and the exit codes of the engine's commands. Torch-free.

The worker turns `code` into the job's status_reason, and decides by the exit code whether the job is retried.
"""

from enum import IntEnum
from typing import Any, ClassVar


class ExitCode(IntEnum):
    """Exit codes of `python -m soul_core` and the engine's other commands."""

    OK = 0
    CRASH = 1
    """An unexpected exception; the traceback is on stderr."""
    BAD_INPUT = 2
    """The request, a file or an option is wrong: another attempt cannot succeed."""
    FAILED = 3
    """The run failed for a reason the engine reports (diverged, out of memory, disk full)."""
    INTERRUPTED = 4
    """The run stopped on request and wrote a checkpoint: the same command resumes it."""
    CANCELLED = 5
    """The run was cancelled and its files are removed."""
    MISMATCH = 9
    """`verify_export` only: the exported model is not the measured one."""


class EngineError(Exception):
    """End a run for a reason the engine understands.

    Args:
        message: One sentence: the problem, its place and the remedy.
        details: Lines that the user can act on, such as row numbers or keys.
    """

    code: ClassVar[str] = "engine_error"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED

    def __init__(self, message: str, *, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class UserError(EngineError):
    """The request itself is wrong. The job is never retried."""

    exit_code = ExitCode.BAD_INPUT


class BadSpec(UserError):
    """The spec is invalid, or does not fit the model and the data sets."""

    code = "bad_spec"


class BadData(UserError):
    """A data set cannot be used; `details` lists every bad row by its number."""

    code = "bad_data"


class BadModel(UserError):
    """The model cannot be loaded, or must not be: a pickle, code that comes with it, a truncated file."""

    code = "bad_model"


class TrainingDivergedError(EngineError):
    """A loss or a gradient norm was not finite. Raised before the update, so the last checkpoint stays valid.

    `training_result` is the `TrainingResult` up to that step, if a training diverged.
    """

    code = "diverged"

    def __init__(self, message: str, *, training_result: Any = None) -> None:
        super().__init__(message)
        self.training_result = training_result


class OutOfMemory(EngineError):
    """Memory ran out even with a micro-batch of a single sequence."""

    code = "out_of_memory"


class DiskFull(EngineError):
    """A file could not be written because the disk is full."""

    code = "disk_full"


class RunCancelledError(EngineError):
    """A cancel was requested; all files of the run are removed."""

    code = "cancelled"
    exit_code = ExitCode.CANCELLED


class RunInterruptedError(EngineError):
    """A stop was requested. The run wrote a checkpoint first and can be resumed from it."""

    code = "interrupted"
    exit_code = ExitCode.INTERRUPTED
