"""The folder a run writes to: may it be written, is there room, does it hold a result already."""

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from soul_core.errors import BadSpec, DiskFull, EngineError
from soul_core.events import Listener
from soul_core.formatting import format_bytes
from soul_core.models.source import ModelSource, pin_source
from soul_core.outputs.result import read_finished_report
from soul_core.report import Report, RetrainedModelFacts
from soul_core.spec import JobSpec
from soul_core.spec.strategy import Ensemble, Search


def find_existing_report(
    spec: JobSpec,
    source: ModelSource,
    out: Path,
    dataset_sha256s: Mapping[str, str],
    *,
    retrained: ModelSource | RetrainedModelFacts | None = None,
) -> Report | None:
    """Return the report when `out` already holds the whole result of this very run: starting again changes nothing.

    `sha256s`: those of the data sets; `reference`: the retrained model, or the facts of its log. Raises BadSpec for
    another run's result, and BadModel when a model is not the registered one.
    """
    report = read_finished_report(out)
    if report is None:
        return None
    known = report.retrained.digest if report.retrained else None
    theirs = {
        "spec": report.spec_sha256,
        "model name": report.model.source,
        "model": report.model.digest,
        "data sets": {one.name: one.sha256 for one in report.data},
        "retrained": known,
    }
    if isinstance(retrained, ModelSource):
        retrained = replace(retrained, digest=pin_source(retrained).digest or known)
    ours = {
        "spec": spec.compute_sha256(),
        "model name": source.display_name,
        # a branch of the hub: only a download tells its commit
        "model": pin_source(source).digest or report.model.digest,
        "data sets": dict(dataset_sha256s),
        "retrained": retrained.digest if retrained else None,
    }
    if other := [what for what in ours if ours[what] != theirs[what]]:
        raise BadSpec(f"{out} already holds the result of another run (other {', '.join(other)}); name another folder")
    return report


def check_writable(out: Path) -> None:
    """Make the folder. Raises EngineError when nothing can be written there."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise EngineError(f"cannot write to {out}: {error.strerror}") from error


def check_disk_space(
    out: Path, spec: JobSpec, num_parameters: int, listener: Listener, *, result_bytes: int | None = None
) -> None:
    """Raise DiskFull when the result cannot fit; warn when the run's own checkpoints, and what it keeps of trials, may
    not. `result_bytes` is the size of the exported weights; without it they are taken as float32.
    """
    free, weights = shutil.disk_usage(out).free, 4 * num_parameters  # the run's own files are float32
    result = weights if result_bytes is None else result_bytes
    # weights and two tensors of the optimizer; the old one goes after the new one is whole
    checkpoints = 2 * 3 * weights
    if isinstance(spec.strategy, Ensemble):
        checkpoints += len(spec.strategy.members) * weights
    elif isinstance(spec.strategy, Search):
        checkpoints += 2 * weights  # the best look's, and the one before until that is whole
    if free < result:
        raise DiskFull(
            f"the result needs {format_bytes(result)}, but the disk of the output folder has {format_bytes(free)} left"
        )
    if free < result + checkpoints:
        needed = f"result and checkpoints may need {format_bytes(result + checkpoints)}"
        listener.emit("warning", message=f"{needed}, but the disk of the output folder has {format_bytes(free)} left")
