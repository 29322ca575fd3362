"""Checks of the output folder: is it writable, has its disk enough space, does it have a result already."""

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
from soul_core.spec import RETAIN, JobSpec
from soul_core.spec.strategy import Ensemble, Search


def find_existing_report(
    spec: JobSpec,
    source: ModelSource,
    out: Path,
    dataset_sha256s: Mapping[str, str],
    *,
    retrained: ModelSource | RetrainedModelFacts | None = None,
) -> Report | None:
    """Return the report if `out` already has the complete result of this run, so that nothing is left to do.

    Args:
        spec: The run's spec.
        source: The base model.
        out: The output folder.
        dataset_sha256s: Digest of each data set that was given, and of those that follow from them.
        retrained: The retrained model, or the facts of its log.

    Raises:
        BadSpec: The folder has the result of another run.
        BadModel: A model's files are not those that were registered.
    """
    report = read_finished_report(out)
    if report is None:
        return None
    retrained_digest = report.retrained.digest if report.retrained else None
    finished_run = {
        "spec": report.spec_sha256,
        "model name": report.model.source,
        "model": report.model.digest,
        # what the base model wrote follows from model, spec and seed; so do rows held out of it
        "data sets": {
            facts.name: facts.sha256
            for facts in report.data
            if facts.origin != "sampled" and (report.generated_retain is None or not facts.name.startswith(RETAIN))
        },
        "retrained model": retrained_digest,
    }
    if isinstance(retrained, ModelSource):
        retrained = replace(retrained, digest=pin_source(retrained).digest or retrained_digest)
    this_run = {
        "spec": spec.compute_sha256(),
        "model name": source.display_name,
        # the commit of a branch on the hub is known only after a download
        "model": pin_source(source).digest or report.model.digest,
        "data sets": dict(dataset_sha256s),
        "retrained model": retrained.digest if retrained else None,
    }
    if differences := [part for part in this_run if this_run[part] != finished_run[part]]:
        raise BadSpec(
            f"{out} already has the result of another run (other {', '.join(differences)}); choose another output "
            "folder"
        )
    return report


def check_writable(out: Path) -> None:
    """Create the folder. Raises EngineError if it is not writable."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise EngineError(f"cannot write to {out}: {error.strerror}; choose another output folder") from error


def check_disk_space(
    out: Path, spec: JobSpec, num_parameters: int, listener: Listener, *, result_bytes: int | None = None
) -> None:
    """Raise DiskFull if the result does not fit; emit a warning if the run's checkpoints may not fit in addition.

    `result_bytes` is the size of the exported weights; by default that of float32 weights.
    """
    free, weights = shutil.disk_usage(out).free, 4 * num_parameters  # checkpoints are float32
    result = weights if result_bytes is None else result_bytes
    # weights and two optimizer tensors, twice: the old checkpoint is removed after the new one is complete
    checkpoint_bytes = 2 * 3 * weights
    if isinstance(spec.strategy, Ensemble):
        checkpoint_bytes += len(spec.strategy.members) * weights
    elif isinstance(spec.strategy, Search):
        checkpoint_bytes += 2 * weights  # those of the best step, and the previous best until they are complete
    if free < result:
        raise DiskFull(
            f"the result needs {format_bytes(result)}, but the disk of the output folder has {format_bytes(free)} "
            "left; free space, or choose another output folder"
        )
    if free < result + checkpoint_bytes:
        needed = f"result and checkpoints may need {format_bytes(result + checkpoint_bytes)}"
        listener.emit("warning", message=f"{needed}, but the disk of the output folder has {format_bytes(free)} left")
