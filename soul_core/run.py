"""A whole run on one page: spec and files in, report and checkpoint out. Resumes from its state folder by itself."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from soul_core.atomic_io import translate_disk_errors
from soul_core.chat.template import find_variables, format_unread_variable
from soul_core.conflicts.retain_set import resolve_conflicts
from soul_core.data.datasets import EncodedDataset, read_datasets, require_sha256s
from soul_core.environment import seed_everything
from soul_core.errors import BadData, BadSpec, OutOfMemory, RunCancelledError
from soul_core.evaluation.row_digests import get_personal_key, read_key
from soul_core.events import Listener, SilentListener
from soul_core.formatting import format_row_numbers
from soul_core.models.loading import get_default_cache_dir
from soul_core.models.source import ModelSource, pin_source
from soul_core.outputs.checks import check_disk_space, check_writable, find_existing_report
from soul_core.outputs.dtypes import Rounding, round_for_export
from soul_core.outputs.gguf_file import check_gguf
from soul_core.outputs.result import discard_outputs, export_gguf, export_weights, write_manifest, write_report
from soul_core.pipeline.comparison import RetrainedLogFile, match_log_rows, read_retrained_log_file
from soul_core.pipeline.conclusion import RunResults, build_report
from soul_core.pipeline.model_under_test import Examined, ModelUnderTest, evaluate_model, load_model_under_test
from soul_core.pipeline.state import RunState
from soul_core.pipeline.strategies import STRATEGIES
from soul_core.pipeline.strategies.goal import check_search_criteria
from soul_core.pipeline.strategies.single import StrategyResult
from soul_core.report import ExportFacts, ModelFacts, Report, RetrainedModelFacts
from soul_core.spec import BASE, JUDGED_MODEL, RETRAINED, JobSpec
from soul_core.spec.export import compute_gguf_bytes
from soul_core.spec.validation import check_spec
from soul_core.training.history import TrainingResult
from soul_core.training.term_examples import check_terms
from soul_core.training.trainable import check_trainable_parameters


@dataclass(frozen=True)
class RunInputs:
    """What a run reads: a model (folder, GGUF file or hub id), others beside it, and data sets by name."""

    model: str
    dataset_paths: Mapping[str, Path]
    revision: str | None = None
    model_name: str | None = None
    """What the report calls the model; default: its hub id, or the last part of its path."""
    compared_models: Mapping[str, str] = field(default_factory=dict)
    """Models measured beside it by name: `reference`, retrained without the forget set; in an evaluation any."""
    retrained_log_path: Path | None = None
    """What an earlier report measured of the reference, in place of the model itself."""
    model_digest: str | None = None
    """The digest the model was registered with: a run on other files ends before anything is spent."""
    compared_digests: Mapping[str, str] = field(default_factory=dict)
    """The same of the models beside it, by name."""
    dataset_sha256s: Mapping[str, str] = field(default_factory=dict)
    """sha256 of the files of data sets, by name, as they were uploaded."""
    retrained_log_sha256: str | None = None
    row_key_path: Path | None = None
    """File with the key of row digests that its owner keeps; default: this user's own, which reports hold."""
    job_id: str | None = None
    cache_dir: Path | None = None

    def get_source(self) -> ModelSource:
        """Return where the model itself comes from. A path is nobody's business but its owner's: reports name a
        local model by its last part.
        """
        shown = self.model_name or _shown(self.model)
        return ModelSource(self.model, shown, self.revision, self.cache_dir, self.model_digest)

    def get_compared_sources(self) -> dict[str, ModelSource]:
        """Return where the models beside it come from; a hub id may have its revision behind an @."""
        return {
            name: self._beside(location, self.compared_digests.get(name))
            for name, location in self.compared_models.items()
        }

    def _beside(self, location: str, digest: str | None) -> ModelSource:
        hub_id, _, revision = location.rpartition("@")
        if hub_id and not Path(location).exists():
            return ModelSource(hub_id, hub_id, revision, self.cache_dir, digest)
        return ModelSource(location, _shown(location), cache_dir=self.cache_dir, digest=digest)


def run(
    spec: JobSpec, inputs: RunInputs, out: Path, *, state_folder: Path | None = None, listener: Listener | None = None
) -> Report:
    """Unlearn, fine-tune or only evaluate; measure before and after; write the results to `out`, the manifest last.

    Started again after an interruption it goes on where it was; of a cancelled run nothing stays.
    Raises an EngineError; user faults are raised before any training.
    """
    check_spec(
        spec,
        inputs.dataset_paths,
        models=inputs.compared_models,
        has_retrained_log=inputs.retrained_log_path is not None,
    )
    check_writable(out)
    state = RunState(state_folder or out / ".state", listener or SilentListener())
    try:
        with _named_errors():
            return _run(spec, inputs, out, state)
    except RunCancelledError:
        discard_outputs(out)
        state.discard()
        raise


def _run(spec: JobSpec, inputs: RunInputs, out: Path, state: RunState) -> Report:
    with state.phase("load"):
        require_sha256s(inputs.dataset_paths, inputs.dataset_sha256s)
        compared = resolve_conflicts(read_datasets(inputs.dataset_paths, spec, state), spec, state)
        log = read_retrained_log_file(inputs.retrained_log_path, sha256=inputs.retrained_log_sha256)
        retrained = log.facts if log else inputs.get_compared_sources().get(RETRAINED)
        if finished := find_existing_report(spec, inputs.get_source(), out, compared.sha256s, retrained=retrained):
            state.emit("finished", verdict=finished.verdict)
            return finished
        key = (
            read_key(inputs.row_key_path)
            if inputs.row_key_path
            else get_personal_key(inputs.cache_dir or get_default_cache_dir())
        )
        opened = partial(
            load_model_under_test, rows=compared.rows, spec=spec, key=key, template_date=state.started_at.date()
        )
        trains = spec.kind != "evaluate"
        subject = opened(inputs.get_source(), is_trained=trains)
        # the model is loaded again after those beside it: it must be the same one then
        load = partial(opened, inputs.get_source().with_digest(subject.facts.digest), is_trained=trains)
        log = _matched(log, subject, spec, state)
        retrained = log.facts if log else None
        beside = {name: pin_source(source) for name, source in inputs.get_compared_sources().items()}
        if subject.facts.batches == "padded":
            state.emit("log", message=f"{subject.facts.architecture} cannot take packed batches: rows are padded")
        _check(spec, subject, out, state)
        state.claim(_identity(spec, subject.facts, subject.datasets, log=retrained))

    examined: dict[str, Examined] = {}
    if inputs.compared_models:
        del subject  # one model at a time in memory
        for name, source in beside.items():
            other = opened(source)
            examined[name] = evaluate_model(other, name, spec, state, phase="compare")
            if name == RETRAINED:
                retrained = RetrainedModelFacts(source=source.display_name, digest=other.facts.digest, from_log=False)
            del other
        subject = load()
    seed_everything(spec.seed, device=subject.loaded.device)

    outcome, rounding = StrategyResult(TrainingResult()), None
    if spec.kind != "evaluate":
        examined[BASE] = evaluate_model(subject, BASE, spec, state, phase="baseline")
        with state.phase(spec.training_phase):
            outcome = STRATEGIES[spec.strategy.kind](subject, spec, state)
            rounding = round_for_export(subject.loaded.model, subject.export_dtypes)

    judged = JUDGED_MODEL[spec.kind]
    examined[judged] = evaluate_model(subject, judged, spec, state, phase="evaluate")

    with state.phase("export"):
        exported = _export(spec, subject, outcome, rounding, out) if rounding else None
        found = RunResults(spec, subject, compared, examined, log, retrained, outcome, exported)
        report = build_report(found, state, job_id=inputs.job_id)
        write_report(report, out)
        write_manifest(out)
    state.discard()
    state.emit("finished", verdict=report.verdict)
    return report


def _matched(
    log: RetrainedLogFile | None, subject: ModelUnderTest, spec: JobSpec, state: RunState
) -> RetrainedLogFile | None:
    """Return a log on the rows that are measured here, and warn of what it lacks."""
    if log is None:
        return None
    matched = match_log_rows(log, subject, spec)
    for warning in matched.warnings:
        state.emit("warning", message=warning)
    return matched


def _check(spec: JobSpec, subject: ModelUnderTest, out: Path, state: RunState) -> None:
    """Raise what speaks against the run once the model is known, before anything is spent."""
    _check_template(spec, subject, state)
    if spec.kind != "evaluate":
        model, tokenizer = subject.loaded.model, subject.loaded.tokenizer
        if spec.export.gguf != "none":
            check_gguf(model, tokenizer)
        num_bytes = subject.export_dtypes.count_bytes(model) + compute_gguf_bytes(
            spec.export, subject.facts.num_parameters
        )
        check_disk_space(out, spec, subject.facts.num_parameters, state, result_bytes=num_bytes)
        for place, recipe in spec.get_recipes().items():
            with _found_at(place):
                _check_recipe(recipe, subject)
        check_search_criteria(subject, spec)


def _check_template(spec: JobSpec, subject: ModelUnderTest, state: RunState) -> None:
    """Raise BadSpec for variables that the chat template does not read; warn of system turns that have to move."""
    encoder = subject.loaded.encoder
    template = encoder.template
    known = find_variables(template.source, template.special_tokens) if template is not None else ()
    if unread := [name for name in spec.chat_template_kwargs if name not in known]:
        raise BadSpec(f"chat_template_kwargs: {format_unread_variable(unread[0], known)}")
    for name, dataset in subject.datasets.items():
        moved = [row.number for row in dataset.rows if encoder.moves_system_turn(row)]
        if moved:
            state.emit(
                "warning",
                message=f"{name} set: the model's chat template takes no system turn; in {len(moved)} rows its text "
                f"stands at the head of the user's turn: {format_row_numbers(moved)}",
            )
        hidden = [row.number for row in dataset.rows if encoder.hides_system_turn(row)]
        if hidden:
            state.emit(
                "warning",
                message=f"{name} set: the model's chat template leaves the system turn out, and the model never sees "
                f"it, in {len(hidden)} rows: {format_row_numbers(hidden)}",
            )


def _export(
    spec: JobSpec, subject: ModelUnderTest, outcome: StrategyResult, rounding: Rounding, out: Path
) -> ExportFacts:
    """Write the weights, which were rounded before they were measured, and the GGUF file where one is wanted."""
    adapter = outcome.training_result.adapter
    export_weights(subject.loaded, adapter, out, dtypes=subject.export_dtypes)
    wanted = spec.export.gguf
    gguf = export_gguf(subject.loaded, out, kind=wanted, name=subject.facts.source) if wanted != "none" else None
    return ExportFacts(
        dtype=subject.export_dtypes.name,
        is_adapter=adapter is not None,
        changed_share_kept=rounding.changed_share_kept,
        rounding_error=rounding.relative_error,
        gguf=gguf,
    )


def _check_recipe(spec: JobSpec, subject: ModelUnderTest) -> None:
    check_trainable_parameters(subject.loaded, spec)
    for forget in subject.list_forget_sets(spec):
        check_terms(
            forget.rows,
            forget.examples,
            spec,
            subject.loaded,
            max_tokens=subject.max_tokens,
            name=forget.name,
        )


@contextmanager
def _found_at(place: str) -> Iterator[None]:
    """Name the recipe of an ensemble that cannot be obeyed."""
    try:
        yield
    except (BadSpec, BadData) as error:
        if not place:
            raise
        raise type(error)(f"{place}: {error.message}", details=error.details) from error


def _identity(
    spec: JobSpec, facts: ModelFacts, sets: Mapping[str, EncodedDataset], *, log: RetrainedModelFacts | None
) -> dict[str, str]:
    data = {f"{name} set": one.facts.sha256 for name, one in sets.items()}
    return {
        "spec": spec.compute_sha256(),
        "model": facts.digest,
        **data,
        **({"reference log": log.digest} if log else {}),
    }


def _shown(location: str) -> str:
    path = Path(location)
    return path.resolve().name if path.exists() else location


@contextmanager
def _named_errors() -> Iterator[None]:
    """Give lack of disk and of memory their names, wherever they strike."""
    try:
        with translate_disk_errors("the run's files"):
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("not enough memory for this model; take a smaller one or a larger machine") from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory("not enough memory for this model; take a smaller one or a larger machine") from error
        raise
