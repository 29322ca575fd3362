"""Every way a run can end badly, by name. Torch-free; the worker turns `code` into the job's status_reason."""

from typing import Any, ClassVar


class EngineError(Exception):
    """A run ended for a reason the engine understands. `details` are lines a user can act on (row numbers, keys)."""

    code: ClassVar[str] = "engine_error"
    exit_code: ClassVar[int] = 3

    def __init__(self, message: str, *, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = details


class UserError(EngineError):
    """The request itself is wrong: running it again cannot help, so nobody retries it."""

    exit_code = 2


class BadSpec(UserError):
    """The spec cannot be obeyed."""

    code = "bad_spec"


class BadData(UserError):
    """A data set cannot be used; `details` names every bad row by its line number."""

    code = "bad_data"


class BadModel(UserError):
    """The model cannot be loaded, or must not be (pickles, code, a truncated file)."""

    code = "bad_model"


class TrainingDiverged(EngineError):
    """A loss or a gradient norm was not finite. Raised before the update, so the last checkpoint stays good.

    `trained` is what a training tells of itself until then, where it is a training that diverged.
    """

    code = "diverged"

    def __init__(self, message: str, *, training_result: Any = None) -> None:
        super().__init__(message)
        self.training_result = training_result


class OutOfMemory(EngineError):
    """Memory ran out with a micro-batch of a single sequence."""

    code = "out_of_memory"


class DiskFull(EngineError):
    """A file could not be written for want of space."""

    code = "disk_full"


class RunCancelled(EngineError):
    """Somebody cancelled the run; nothing of it is kept."""

    code = "cancelled"
    exit_code = 5


class RunInterrupted(EngineError):
    """The process was asked to leave: it wrote a checkpoint first, and the run can be resumed from it."""

    code = "interrupted"
    exit_code = 4
