"""A whole run on one page: spec and files in, checkpoint and report out. Resumes from its state folder by itself."""

import hashlib
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import torch

from soul_core.durable import disk_errors
from soul_core.errors import BadSpec, Cancelled, DiskFull, EngineError, OutOfMemory
from soul_core.evaluate import Measured, measure
from soul_core.evaluation_rows import choose, side_by_side
from soul_core.export import CHECKPOINT, discard, export_checkpoint, read_finished, write_manifest, write_report
from soul_core.limits import limits_of
from soul_core.listener import Listener, Quiet
from soul_core.metrics.aggregate import Resampling
from soul_core.models import Loaded, load_model
from soul_core.provenance import seed_everything, versions
from soul_core.refusals import check_refusable
from soul_core.report import ModelFacts, Report, RunFacts
from soul_core.report_page import size
from soul_core.rows import canonical_sha256
from soul_core.run_data import DataSet, encode_sets, num_shared, read_sets
from soul_core.run_state import RunState
from soul_core.spec import FORGET, RETAIN, JobSpec
from soul_core.spec_checks import check_spec
from soul_core.spec_terms import Refusal
from soul_core.trainer import Trained, train
from soul_core.verdict import conclude, judge

BASE, UNLEARNED = "base", "unlearned"


@dataclass(frozen=True)
class Inputs:
    """What a run reads: the base model (folder, GGUF file or hub id) and its data sets by name."""

    model: str
    sets: Mapping[str, Path]
    revision: str | None = None
    model_name: str | None = None
    """What the report calls the model; default: its hub id, or the last part of its path."""
    job_id: str | None = None
    cache_dir: Path | None = None


def run(
    spec: JobSpec, inputs: Inputs, out: Path, *, state_folder: Path | None = None, listener: Listener | None = None
) -> Report:
    """Unlearn, measure before and after, and write the results to `out`, the manifest last.

    Started again after an interruption it goes on where it was; of a cancelled run nothing stays.
    Raises an EngineError; user faults are raised before any training.
    """
    check_spec(spec, inputs.sets)
    _check_writable(out)
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
        rows = read_sets(inputs.sets, state)
        if finished := _finished_before(spec, inputs, out, {name: canonical_sha256(rows[name]) for name in rows}):
            state.emit("finished", verdict=finished.verdict)
            return finished
        loaded = load_model(
            inputs.model,
            revision=inputs.revision,
            device=spec.device,
            dtype=spec.dtype,
            cache_dir=inputs.cache_dir,
        )
        seed_everything(spec.seed, device=loaded.device)
        _check_room(out, loaded.facts.num_parameters, state)
        facts = loaded.facts.model_copy(update={"source": _name_of(inputs)})
        max_tokens = min(spec.training.max_tokens, facts.context_tokens)
        sets = encode_sets(rows, loaded.tokenizer, max_tokens=max_tokens)
        if isinstance(spec.forget, Refusal):
            forget = sets[FORGET]
            check_refusable(forget.rows, forget.examples, spec.forget, loaded, seed=spec.seed, max_tokens=max_tokens)
        state.claim(_identity(spec, facts, sets))
        measured_sets = [
            choose(one.name, one.rows, one.examples, most=spec.evaluation.max_examples, seed=spec.seed)
            for one in sets.values()
        ]

    def measure_all(model: str, phase: Literal["baseline", "evaluate"]) -> Measured:
        return measure(
            loaded,
            measured_sets,
            spec.evaluation,
            seed=spec.seed,
            micro_batch_tokens=spec.training.micro_batch_tokens,
            phase=phase,
            listener=state,
            kept=state.folder / "measured" / f"{model}-{_weights_mark(loaded)}",
        )

    with state.phase("baseline"):
        base = measure_all(BASE, "baseline")

    with state.phase("unlearn"):
        trained = train(
            loaded,
            spec,
            forget=sets[FORGET].examples,
            retain=sets[RETAIN].examples if RETAIN in sets else (),
            state_dir=state.folder,
            listener=state,
        )

    with state.phase("evaluate"):
        unlearned = measure_all(UNLEARNED, "evaluate")

    with state.phase("export"):
        export_checkpoint(loaded.model, loaded.tokenizer, out / CHECKPOINT)
        resampling = Resampling(spec.evaluation.bootstrap, spec.evaluation.confidence, spec.seed)
        after, before = unlearned.measurements(), base.measurements()
        criteria = judge(spec.criteria, unlearned=after, base=before, resampling=resampling)
        verdict, reason = conclude(criteria, confidence=spec.evaluation.confidence)
        data = tuple(one.facts for one in sets.values())
        report = Report(
            job_id=inputs.job_id,
            spec=spec,
            spec_sha256=spec.digest(),
            model=facts,
            data=data,
            models={BASE: before, UNLEARNED: after},
            examples=side_by_side(
                measured_sets, {BASE: base.answers(), UNLEARNED: unlearned.answers()}, most=spec.evaluation.side_by_side
            ),
            criteria=criteria,
            verdict=verdict,
            verdict_reason=reason,
            run=_run_facts(loaded, trained, state),
            versions=versions(),
            limits=tuple(limits_of(spec, data, after, num_shared=num_shared(rows))),
        )
        write_report(report, out)
        write_manifest(out)
    state.discard()
    state.emit("finished", verdict=verdict)
    return report


def _finished_before(spec: JobSpec, inputs: Inputs, out: Path, sha256s: Mapping[str, str]) -> Report | None:
    """Return the report when `out` already holds the whole result of this very run: starting again changes nothing."""
    report = read_finished(out)
    if report is None:
        return None
    ours = (spec.digest(), _name_of(inputs), dict(sha256s))
    theirs = (report.spec_sha256, report.model.source, {one.name: one.sha256 for one in report.data})
    if ours != theirs:
        raise BadSpec(f"{out} already holds the result of another run; name another folder")
    return report


def _check_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise EngineError(f"cannot write to {out}: {error.strerror}") from error


def _check_room(out: Path, num_parameters: int, listener: Listener) -> None:
    """Raise DiskFull when the result cannot fit; warn when the run's own checkpoints may not."""
    free, result = shutil.disk_usage(out).free, 4 * num_parameters  # float32
    checkpoints = (
        2 * 3 * result
    )  # weights and two tensors of the optimizer; the old one goes after the new one is whole
    if free < result:
        raise DiskFull(f"the result needs {size(result)}, but the disk of the output folder has {size(free)} left")
    if free < result + checkpoints:
        needed = f"result and checkpoints may need {size(result + checkpoints)}"
        listener.emit("warning", message=f"{needed}, but the disk of the output folder has {size(free)} left")


def _identity(spec: JobSpec, facts: ModelFacts, sets: Mapping[str, DataSet]) -> dict[str, str]:
    data = {f"{name} set": one.facts.sha256 for name, one in sets.items()}
    return {"spec": spec.digest(), "model": facts.digest, **data}


def _name_of(inputs: Inputs) -> str:
    """A path is nobody's business but its owner's: reports name a local model by its last part."""
    path = Path(inputs.model)
    return inputs.model_name or (path.resolve().name if path.exists() else inputs.model)


def _weights_mark(loaded: Loaded) -> str:
    """Return a mark that weights trained again to other bits (a GPU) do not share: measurements are kept under it."""
    with torch.no_grad():
        sums = [(p.sum(dtype=torch.float64), p.abs().sum(dtype=torch.float64)) for p in loaded.model.parameters()]
    text = " ".join(float(value).hex() for pair in sums for value in pair)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _run_facts(loaded: Loaded, trained: Trained, state: RunState) -> RunFacts:
    on_gpu = loaded.device.type == "cuda"
    return RunFacts(
        started_at=state.started_at,
        finished_at=datetime.now(UTC),
        seconds=state.seconds,
        steps=trained.steps,
        train_tokens=trained.train_tokens,
        flops=trained.flops,
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
