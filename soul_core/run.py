"""A complete run on one page: spec and files in, report and checkpoint out. It resumes from its state folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from soul_core.atomic_io import translate_disk_errors
from soul_core.data.datasets import read_datasets, require_sha256s
from soul_core.environment import seed_everything
from soul_core.errors import OutOfMemory, RunCancelledError
from soul_core.evaluation.model_evaluation import ModelEvaluation
from soul_core.events import Listener, SilentListener
from soul_core.models.source import pin_source
from soul_core.outputs.checks import check_writable, find_existing_report
from soul_core.outputs.dtypes import Rounding, round_for_export
from soul_core.outputs.result import discard_outputs, export_gguf, export_weights, write_manifest, write_report
from soul_core.pipeline.comparison import RetrainedLogFile, match_log_rows, read_retrained_log_file
from soul_core.pipeline.conclusion import RunResults, build_report
from soul_core.pipeline.data_sets import prepare_datasets
from soul_core.pipeline.inputs import RunInputs
from soul_core.pipeline.missing_retain_set import make_missing_retain_set
from soul_core.pipeline.model_under_test import ModelUnderTest, evaluate_model, load_model_under_test
from soul_core.pipeline.own_texts import add_own_texts
from soul_core.pipeline.preflight import check_run
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies import STRATEGIES
from soul_core.pipeline.strategies.single import StrategyResult
from soul_core.report import ExportFacts, Report, RetrainedModelFacts
from soul_core.spec import BASE, JUDGED_MODEL, RETRAINED, JobKind, JobSpec
from soul_core.spec.validation import check_spec
from soul_core.training.history import TrainingResult

__all__ = ["RunInputs", "run"]


def run(
    spec: JobSpec, inputs: RunInputs, out: Path, *, state_folder: Path | None = None, listener: Listener | None = None
) -> Report:
    """Unlearn, fine-tune or only evaluate; measure before and after; write the results to `out`, the manifest last.

    The same call resumes an interrupted run. A cancelled run leaves no files.

    Args:
        state_folder: Folder of what a resumed run needs; default: `.state` in `out`.

    Raises:
        EngineError: The run failed; a `UserError` is raised before any training.
    """
    spec = _complete_spec(spec, inputs)
    check_writable(out)
    state = RunState(state_folder or out / ".state", listener or SilentListener())
    with _discard_if_cancelled(out, state), _translate_resource_errors():
        with state.phase("load"):
            require_sha256s(inputs.dataset_paths, inputs.dataset_sha256s)
            resolution = prepare_datasets(read_datasets(inputs.dataset_paths, spec, state), spec, state)
            log = read_retrained_log_file(inputs.retrained_log_path, sha256=inputs.retrained_log_sha256)
            source, compared_sources = inputs.get_source(), inputs.get_compared_sources()
            reference = log.facts if log else compared_sources.get(RETRAINED)
            if report := find_existing_report(spec, source, out, resolution.sha256s, retrained=reference):
                state.emit("finished", verdict=report.verdict)
                return report
            made = make_missing_retain_set(resolution, spec, source, state)
            load = partial(
                load_model_under_test,
                spec=spec,
                key=inputs.get_digest_key(),
                template_date=state.started_at.date(),
            )
            is_trained = spec.kind != JobKind.EVALUATE
            model = load(source, made.resolution, is_trained=is_trained, loaded=made.take_model())
            resolution, model = add_own_texts(made.resolution, model, spec, state)
            log = match_log_rows(log, model, spec, state, made_sets=resolution.origins) if log else None
            compared_sources = {name: pin_source(compared) for name, compared in compared_sources.items()}
            check_run(spec, model, out, state)
            state.claim(_make_identity(spec, model, log))

        evaluations: dict[str, ModelEvaluation] = {}
        retrained = log.facts if log else None
        if compared_sources:
            source = source.with_digest(model.facts.digest)  # it is loaded again: the files must be the same then
            del model  # one model at a time in memory
            for name, compared_source in compared_sources.items():
                compared = load(compared_source, resolution)
                evaluations[name] = evaluate_model(compared, name, spec, state, phase="compare")
                if name == RETRAINED:
                    retrained = RetrainedModelFacts(
                        source=compared_source.display_name, digest=compared.facts.digest, from_log=False
                    )
                del compared
            model = load(source, resolution, is_trained=is_trained)
        seed_everything(spec.seed, device=model.loaded.device)

        result, rounding = StrategyResult(TrainingResult()), None
        if is_trained:
            evaluations[BASE] = evaluate_model(model, BASE, spec, state, phase="baseline")
            with state.phase(spec.training_phase):
                result = STRATEGIES[spec.strategy.kind](model, spec, state)
                rounding = round_for_export(model.loaded.model, model.export_dtypes)

        judged = JUDGED_MODEL[spec.kind]
        evaluations[judged] = evaluate_model(model, judged, spec, state, phase="evaluate")

        with state.phase("export"):
            export = _export_model(spec, model, result, rounding, out) if rounding else None
            results = RunResults(model, resolution, made.facts, evaluations, log, retrained, result, export)
            report = build_report(spec, results, state, job_id=inputs.job_id)
            write_report(report, out)
            write_manifest(out)
        state.discard()
        state.emit("finished", verdict=report.verdict)
        return report


def _complete_spec(spec: JobSpec, inputs: RunInputs) -> JobSpec:
    """Return the spec with the defaults that depend on the run's data sets. Raises BadSpec for its problems."""
    spec = spec.complete(inputs.dataset_paths)
    check_spec(spec, inputs.dataset_paths, models=inputs.compared_models, has_retrained_log=inputs.has_retrained_log)
    return spec


def _make_identity(spec: JobSpec, model: ModelUnderTest, log: RetrainedLogFile | None) -> dict[str, str]:
    """Return what determines the run's numbers: a state folder is resumed only by the same."""
    identity = {"spec": spec.compute_sha256(), "model": model.facts.digest}
    identity |= {f"{name} set": dataset.facts.sha256 for name, dataset in model.datasets.items()}
    return identity | ({"retrained log": log.facts.digest} if log else {})


def _export_model(
    spec: JobSpec, model: ModelUnderTest, result: StrategyResult, rounding: Rounding, out: Path
) -> ExportFacts:
    """Write the weights, which were rounded before they were measured, and the GGUF file if the spec asks for one."""
    adapter, gguf = result.training_result.adapter, None
    export_weights(model.loaded, adapter, out, dtypes=model.export_dtypes)
    if spec.export.gguf != "none":
        gguf = export_gguf(model.loaded, out, kind=spec.export.gguf, name=model.facts.source)
    return ExportFacts(
        dtype=model.export_dtypes.name,
        is_adapter=adapter is not None,
        changed_share_kept=rounding.changed_share_kept,
        rounding_error=rounding.relative_error,
        gguf=gguf,
    )


@contextmanager
def _discard_if_cancelled(out: Path, state: RunState) -> Iterator[None]:
    try:
        yield
    except RunCancelledError:
        discard_outputs(out)
        state.discard()
        raise


@contextmanager
def _translate_resource_errors() -> Iterator[None]:
    """Raise DiskFull and OutOfMemory for what any library raises when disk or memory runs out."""
    message = "not enough memory for this model; use a smaller model or a larger machine"
    try:
        with translate_disk_errors("the run's files"):
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(message) from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory(message) from error
        raise
