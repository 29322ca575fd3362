"""A whole run on one page: spec and files in, report and checkpoint out. Resumes from its state folder by itself."""

import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import torch

from soul_core.attacks.arena import results
from soul_core.comparison import compare, judge_run, read_log_of_reference
from soul_core.durable import disk_errors
from soul_core.errors import BadData, BadSpec, Cancelled, OutOfMemory
from soul_core.evaluation.chosen_rows import side_by_side
from soul_core.evaluation.limits import caveats_of_export, limits_of
from soul_core.evaluation.verdict import conclude
from soul_core.export.dtypes import Rounding, round_for_export
from soul_core.export.gguf_file import check_gguf
from soul_core.export.result import discard, export_gguf, export_weights, write_manifest, write_report
from soul_core.listener import Listener, Quiet
from soul_core.output_folder import check_room, check_writable, finished_before
from soul_core.provenance import seed_everything, versions
from soul_core.report import ExportFacts, ModelFacts, ReferenceFacts, Report, RunFacts
from soul_core.rows import canonical_sha256
from soul_core.run_data import DataSet, num_shared, read_sets
from soul_core.run_state import RunState
from soul_core.spec import BASE, JUDGED, REFERENCE, JobSpec
from soul_core.spec.checks import check_spec
from soul_core.spec.export import gguf_bytes
from soul_core.strategies import STRATEGIES
from soul_core.strategies.goal import check_goal
from soul_core.strategies.single import Outcome
from soul_core.subject import Examined, Source, Subject, examine, load_subject
from soul_core.training.movable import check_movable
from soul_core.training.preparation import check_terms
from soul_core.training.record import Trained


@dataclass(frozen=True)
class Inputs:
    """What a run reads: a model (folder, GGUF file or hub id), others beside it, and data sets by name."""

    model: str
    sets: Mapping[str, Path]
    revision: str | None = None
    model_name: str | None = None
    """What the report calls the model; default: its hub id, or the last part of its path."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Models measured beside it by name: `reference`, retrained without the forget set; in an evaluation any."""
    reference_log: Path | None = None
    """What an earlier report measured of the reference, in place of the model itself."""
    job_id: str | None = None
    cache_dir: Path | None = None

    def source(self) -> Source:
        """Return where the model itself comes from. A path is nobody's business but its owner's: reports name a
        local model by its last part.
        """
        return Source(self.model, self.model_name or _shown(self.model), self.revision, self.cache_dir)

    def others(self) -> dict[str, Source]:
        """Return where the models beside it come from; a hub id may have its revision behind an @."""
        return {name: self._beside(location) for name, location in self.models.items()}

    def _beside(self, location: str) -> Source:
        hub_id, _, revision = location.rpartition("@")
        if hub_id and not Path(location).exists():
            return Source(hub_id, hub_id, revision, self.cache_dir)
        return Source(location, _shown(location), cache_dir=self.cache_dir)


def run(
    spec: JobSpec, inputs: Inputs, out: Path, *, state_folder: Path | None = None, listener: Listener | None = None
) -> Report:
    """Unlearn, fine-tune or only evaluate; measure before and after; write the results to `out`, the manifest last.

    Started again after an interruption it goes on where it was; of a cancelled run nothing stays.
    Raises an EngineError; user faults are raised before any training.
    """
    check_spec(spec, inputs.sets, models=inputs.models, reference_log=inputs.reference_log is not None)
    check_writable(out)
    state = RunState(state_folder or out / ".state", listener or Quiet())
    try:
        with _named_errors():
            return _run(spec, inputs, out, state)
    except Cancelled:
        discard(out)
        state.discard()
        raise


def _run(spec: JobSpec, inputs: Inputs, out: Path, state: RunState) -> Report:
    with state.phase("load"):
        rows = read_sets(inputs.sets, spec, state)
        sha256s = {name: canonical_sha256(rows[name]) for name in rows}
        if finished := finished_before(spec, inputs.source().shown, out, sha256s):
            state.emit("finished", verdict=finished.verdict)
            return finished
        log = read_log_of_reference(inputs.reference_log)
        load = partial(load_subject, inputs.source(), rows, spec, is_trained=spec.kind != "evaluate")
        subject = load()
        _check(spec, subject, out, state)
        state.claim(_identity(spec, subject.facts, subject.sets))

    examined: dict[str, Examined] = {}
    reference = log.facts if log else None
    if inputs.models:
        del subject  # one model at a time in memory
        for name, source in inputs.others().items():
            other = load_subject(source, rows, spec)
            examined[name] = examine(other, name, spec, state, phase="reference")
            if name == REFERENCE:
                reference = ReferenceFacts(source=source.shown, digest=other.facts.digest, from_log=False)
            del other
        subject = load()
    seed_everything(spec.seed, device=subject.loaded.device)

    outcome, rounding = Outcome(Trained()), None
    if spec.kind != "evaluate":
        examined[BASE] = examine(subject, BASE, spec, state, phase="baseline")
        with state.phase(spec.kind):
            outcome = STRATEGIES[spec.strategy.kind](subject, spec, state)
            rounding = round_for_export(subject.loaded.model, subject.dtypes)

    judged = JUDGED[spec.kind]
    examined[judged] = examine(subject, judged, spec, state, phase="evaluate")

    with state.phase("export"):
        exported = _export(spec, subject, outcome, rounding, out) if rounding else None
        models = compare(spec, judged, examined, log)
        attacks = results(
            {name: examined[name].attacked for name in models if name in examined}, spec, judged=judged, measured=models
        )
        criteria = judge_run(spec, judged, models, attacks)
        verdict, reason = conclude(criteria, confidence=spec.evaluation.confidence, forgetting=spec.kind != "finetune")
        data = tuple(one.facts for one in subject.sets.values())
        report = Report(
            job_id=inputs.job_id,
            spec=spec,
            spec_sha256=spec.digest(),
            model=subject.facts,
            data=data,
            models=models,
            trials=outcome.trials,
            reference=reference,
            attacks=attacks,
            examples=side_by_side(
                subject.chosen,
                {name: examined[name].answers for name in models if name in examined},
                most=spec.evaluation.side_by_side,
            ),
            criteria=criteria,
            verdict=verdict,
            verdict_reason=reason,
            run=_run_facts(spec, subject, outcome.trained, state),
            export=exported,
            versions=versions(),
            limits=(
                *limits_of(spec, data, models[judged], models=models, attacks=attacks, shared=num_shared(rows, spec)),
                *caveats_of_export(exported),
            ),
        )
        write_report(report, out)
        write_manifest(out)
    state.discard()
    state.emit("finished", verdict=verdict)
    return report


def _check(spec: JobSpec, subject: Subject, out: Path, state: RunState) -> None:
    """Raise what speaks against the run once the model is known, before anything is spent."""
    if spec.kind != "evaluate":
        model, tokenizer = subject.loaded.model, subject.loaded.tokenizer
        if spec.export.gguf != "none":
            check_gguf(model, tokenizer)
        num_bytes = subject.dtypes.num_bytes(model) + gguf_bytes(spec.export, subject.facts.num_parameters)
        check_room(out, spec, subject.facts.num_parameters, state, result_bytes=num_bytes)
        for place, recipe in spec.recipes().items():
            with _found_at(place):
                _check_recipe(recipe, subject)
        check_goal(subject, spec)


def _export(spec: JobSpec, subject: Subject, outcome: Outcome, rounding: Rounding, out: Path) -> ExportFacts:
    """Write the weights, which were rounded before they were measured, and the GGUF file where one is wanted."""
    adapter = outcome.trained.adapter
    export_weights(subject.loaded, adapter, out, dtypes=subject.dtypes)
    wanted = spec.export.gguf
    gguf = export_gguf(subject.loaded, out, kind=wanted, name=subject.facts.source) if wanted != "none" else None
    return ExportFacts(
        dtype=subject.dtypes.name,
        is_adapter=adapter is not None,
        changed_share_kept=rounding.changed_share_kept,
        rounding_error=rounding.relative_error,
        gguf=gguf,
    )


def _check_recipe(spec: JobSpec, subject: Subject) -> None:
    check_movable(subject.loaded, spec)
    for forget in subject.forget_sets(spec):
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


def _identity(spec: JobSpec, facts: ModelFacts, sets: Mapping[str, DataSet]) -> dict[str, str]:
    data = {f"{name} set": one.facts.sha256 for name, one in sets.items()}
    return {"spec": spec.digest(), "model": facts.digest, **data}


def _shown(location: str) -> str:
    path = Path(location)
    return path.resolve().name if path.exists() else location


def _run_facts(spec: JobSpec, subject: Subject, trained: Trained, state: RunState) -> RunFacts:
    loaded, known = subject.loaded, spec.model_train_tokens
    on_gpu = loaded.device.type == "cuda"
    return RunFacts(
        started_at=state.started_at,
        finished_at=datetime.now(UTC),
        seconds=state.seconds,
        steps=trained.steps,
        train_tokens=trained.train_tokens,
        flops=trained.flops,
        flops_of_training=6.0 * subject.facts.num_parameters * known if known else None,
        peak_memory_bytes=torch.cuda.max_memory_allocated(loaded.device) if on_gpu else _peak_resident_bytes(),
        device=torch.cuda.get_device_name(loaded.device) if on_gpu else "cpu",
        dtype=str(loaded.compute_dtype).removeprefix("torch."),
        resumed_at_steps=tuple(trained.resumed_at_steps),
        curves=trained.curves,
    )


def _peak_resident_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextmanager
def _named_errors() -> Iterator[None]:
    """Give lack of disk and of memory their names, wherever they strike."""
    try:
        with disk_errors("the run's files"):
            yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory("not enough memory for this model; take a smaller one or a larger machine") from error
    except RuntimeError as error:
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory("not enough memory for this model; take a smaller one or a larger machine") from error
        raise
