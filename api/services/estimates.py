"""Estimates the cost of a job before it runs, from finished jobs, and names what the estimate is based on."""

from collections.abc import Sequence
from dataclasses import dataclass

from api.auth import Caller
from api.schemas.jobs import EstimateBasis, EstimateOut
from api.schemas.submissions import JobCreate
from api.services import conflicts
from api.services.cost_prediction import History, Observation, Prediction, predict
from api.services.job_validation import ValidatedRequest, validate_request
from soul_core.data.held_out import MIN_SPLIT_ROWS
from soul_core.spec import ALL, ALL_PRIOR_FORGET_SETS, RETAIN, RETAIN_HELD_OUT, RETRAINED, TRAIN, JobKind, JobSpec
from soul_core.spec.export import compute_output_bytes
from soul_core.spec.generated_retain import GenerateRetain
from soul_store import job_costs, workers
from soul_store.blobs import get_blob_store
from soul_store.database import Session
from soul_store.job_work import BYTES_PER_TOKEN, EXPORT, LOAD, START, JobWork, count_work, measure_set
from soul_store.placement import Accelerator, JobNeeds, make_needs
from soul_store.tables import JobCost

#: The one part of a prediction of memory.
MEMORY = "memory"
#: Sustained floating point operations per second, before any job has finished.
_RATES: dict[Accelerator, float] = {"cpu": 6e10, "cuda": 1.5e14}
_LOAD_SECONDS = 15.0


def estimate(session: Session, caller: Caller, body: JobCreate) -> EstimateOut:
    """Return whether the job would be accepted and what it would cost. Writes nothing."""
    body = body.with_complete_spec()
    request = validate_request(session, caller, body)
    conflict_problems = conflicts.find_problems(request.all_datasets, body.spec)
    problems = [*request.missing, *request.problems, *conflict_problems]
    warnings = _find_warnings(request, body.spec) + _find_undecidable_criteria(body, request)
    num_parameters = request.model.facts.get("num_parameters") if request.model else None
    accelerator, reason = _choose_accelerator(session, body.spec)
    needs = find_needs(session, body, request)
    if fleet := workers.find_waiting_reason(workers.list_available(session), needs):
        warnings.append(fleet[1])
    if problems or not num_parameters:
        unknown = "the size of the model is not known before it is loaded"
        basis = f"no estimate: {'the job would be refused' if num_parameters else unknown}"
        return EstimateOut(
            allowed=not problems,
            errors=problems,
            warnings=warnings,
            seconds=None,
            seconds_interval=None,
            peak_memory_bytes=None,
            peak_memory_bytes_interval=None,
            flops=None,
            output_bytes=None,
            based_on=None,
            basis=basis,
        )
    work = _count_work(body, request, num_parameters)
    history = _read_history(session, accelerator, body.spec.dtype)
    seconds = predict(work.by_phase, history.times, typed=_list_typed_seconds(body, request, work, accelerator))
    memory = _predict_memory(work, history)
    return EstimateOut(
        allowed=True,
        errors=[],
        warnings=warnings,
        seconds=round(seconds.value, 1),
        seconds_interval=(round(seconds.low, 1), round(seconds.high, 1)),
        peak_memory_bytes=int(memory.value),
        peak_memory_bytes_interval=(int(memory.low), int(memory.high)),
        flops=work.operations.total,
        output_bytes=_compute_output_bytes(body, request, num_parameters),
        based_on=EstimateBasis(
            source=seconds.source,
            num_jobs=seconds.num_jobs,
            memory_source=memory.source,
            memory_num_jobs=memory.num_jobs,
            accelerator=accelerator,
            machine=history.machine,
            dtype=body.spec.dtype,
        ),
        basis=_describe_basis(seconds, accelerator, reason, history.machine),
    )


def find_needs(session: Session, body: JobCreate, request: ValidatedRequest) -> JobNeeds:
    """Return what a job needs of its worker: the device that it names, and the least memory to expect.

    The least, because an estimate may be too high: a worker that may hold the job tries it.
    """
    num_parameters = request.model.facts.get("num_parameters") if request.model else None
    if not num_parameters or request.missing or request.problems:
        return make_needs(body.spec.device, None)
    accelerator, _ = _choose_accelerator(session, body.spec)
    history = _read_history(session, accelerator, body.spec.dtype)
    memory = _predict_memory(_count_work(body, request, num_parameters), history)
    return make_needs(body.spec.device, int(memory.low))


def _predict_memory(work: JobWork, history: "_History") -> Prediction:
    planned = {MEMORY: float(work.planned_memory_bytes)}
    return predict(planned, history.memory, typed=planned)


def _choose_accelerator(session: Session, spec: JobSpec) -> tuple[Accelerator, str]:
    """Return the accelerator that the estimate assumes, and why."""
    if spec.device != "auto":
        return spec.device, f"spec.device is '{spec.device}'"
    if best := workers.get_best_accelerator(session):
        return best, "the fastest that a worker has reported"
    return "cpu", "no worker has reported a GPU or a CPU"


def _describe_basis(prediction: Prediction, accelerator: Accelerator, reason: str, machine: str | None) -> str:
    device = "a GPU" if accelerator == "cuda" else "a CPU"
    jobs = f"{prediction.num_jobs} finished job{'' if prediction.num_jobs == 1 else 's'}"
    source = {
        "worker_kind": f", learned from {jobs} on this kind of worker ({machine})",
        "other_kinds": f", learned from {jobs} on other kinds of worker, because none has finished on this kind",
        "constants": f" at {_RATES[accelerator]:.3g} operations per second, {BYTES_PER_TOKEN:g} bytes per token, "
        "because no job has finished yet",
    }[prediction.source]
    return f"an estimate for one worker on {device} ({reason}){source}"


@dataclass(frozen=True)
class _History:
    """Finished jobs as observations of time and memory, and the machine that the estimate assumes."""

    machine: str | None
    times: History
    memory: History


def _read_history(session: Session, accelerator: Accelerator, dtype: str) -> _History:
    """Read the finished jobs. Without a reported machine, the estimate assumes that of the latest job."""
    machine = workers.get_common_machine(session, accelerator)
    rows = job_costs.list_recent(session, accelerator=accelerator, machine=machine, dtype=dtype)
    comparable = [row for row in rows if row.accelerator == accelerator]
    if machine is None and comparable:
        machine = comparable[0].machine
    own = [row for row in comparable if (row.machine, row.dtype) == (machine, dtype)]
    others = [row for row in rows if row not in own]
    return _History(
        machine,
        History(_observe_times(own, accelerator), _observe_times(others, accelerator)),
        History(_observe_memory(own), _observe_memory([row for row in others if row in comparable])),
    )


def _observe_times(rows: Sequence[JobCost], accelerator: Accelerator) -> list[Observation]:
    """Return work and seconds of each row; of another accelerator as the typed rates convert them."""
    factors = {other: rate / _RATES[accelerator] for other, rate in _RATES.items()}
    return [
        Observation.make(row.work, row.seconds, {START: 1.0, LOAD: 1.0, EXPORT: 1.0}, factors[row.accelerator])
        for row in rows
        if row.accelerator in factors
    ]


def _observe_memory(rows: Sequence[JobCost]) -> list[Observation]:
    return [Observation.make({MEMORY: row.planned_memory_bytes}, {MEMORY: row.peak_memory_bytes}) for row in rows]


def _list_typed_seconds(
    body: JobCreate, request: ValidatedRequest, work: JobWork, accelerator: Accelerator
) -> dict[str, float]:
    """Return the seconds of each phase by the typed constants, which know nothing of the start and the export."""
    seconds = {phase: amount / _RATES[accelerator] for phase, amount in work.by_phase.items()}
    num_models = 1 + len(request.resolved_models.get_names())
    return seconds | {START: 0.0, LOAD: _LOAD_SECONDS * num_models, EXPORT: 0.0}


def _count_work(body: JobCreate, request: ValidatedRequest, num_parameters: int) -> JobWork:
    """Return the work of the job, and of the job that makes its retrained model if the body asks for one."""
    blobs = get_blob_store()
    sets = {name: measure_set(row, blobs) for name, row in request.all_datasets.items()}
    num_compared_models = len(request.resolved_models.get_names())
    work = count_work(body.spec, sets, num_parameters, num_compared_models=num_compared_models)
    retrain_spec = request.resolved_models.retrain_spec
    if retrain_spec is not None:
        work += count_work(retrain_spec, {TRAIN: sets[RETAIN]}, num_parameters, num_compared_models=0)
    return work


def _compute_output_bytes(body: JobCreate, request: ValidatedRequest, num_parameters: int) -> int | None:
    """Return the size of the exported weights; of a model without known dtypes as float32."""
    if body.spec.kind == JobKind.EVALUATE or request.model is None:
        return None
    stored = request.model.facts.get("parameters_by_dtype") or {}
    return compute_output_bytes(body.spec.export, stored, num_parameters=num_parameters)


def _find_warnings(request: ValidatedRequest, spec: JobSpec) -> list[str]:
    warnings = []
    for name, row in request.datasets.items():
        groups = (row.validation or {}).get("duplicates", [])
        if groups:
            warnings.append(f"{name}: {sum(map(len, groups)) - len(groups)} rows repeat others")
    settings = spec.data.auto_retain
    if isinstance(settings, GenerateRetain) and spec.makes_retain_set(request.all_datasets):
        warnings.append(f"no retain set is given: the base model makes one of about {settings.num_rows} rows")
    warnings += conflicts.find_warnings(request.all_datasets, spec)
    if request.resolved_models.retrain_spec is not None:
        warnings.append("a model is retrained first, unless an earlier one can be reused: its cost is included")
    return [*warnings, *request.prior_forget_sets.messages]


def _find_undecidable_criteria(body: JobCreate, request: ValidatedRequest) -> list[str]:
    """Return a warning for each criterion whose metric is not computed: with it no verdict can be `passed`."""
    spec, warnings = body.spec, []
    sets = {*body.datasets, *spec.list_made_sets(body.datasets)}
    if RETAIN_HELD_OUT not in body.datasets and _has_small_retain_set(request):
        sets.discard(RETAIN_HELD_OUT)
    for number, criterion in enumerate(spec.criteria):
        if criterion.set == ALL_PRIOR_FORGET_SETS:  # applies to the sets that exist
            continue
        if criterion.set != ALL and criterion.set not in sets:
            missing = f"the data set '{criterion.set}', which the job does not have"
        elif criterion.metric not in spec.evaluation.metrics:
            missing = f"'{criterion.metric}', which evaluation.metrics does not name"
        elif criterion.relative_to_base and spec.kind == JobKind.EVALUATE:
            missing = "a base model to compare with, and an evaluation has none"
        elif criterion.relative_to_retrained and body.retrained.kind == "none" and RETRAINED not in body.models:
            missing = "a retrained model to compare with, and none is given"
        else:
            continue
        warnings.append(f"criteria.{number} needs {missing}: it will be inconclusive")
    return warnings


def _has_small_retain_set(request: ValidatedRequest) -> bool:
    """Return whether the retain set has too few rows to hold some out."""
    retain = request.datasets.get(RETAIN)
    return retain is not None and (retain.num_rows or 0) < MIN_SPLIT_ROWS
