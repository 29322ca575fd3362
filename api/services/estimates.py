"""Estimates the cost of a job before it runs, and names the assumptions."""

from api.auth import Caller
from api.schemas.jobs import EstimateOut
from api.schemas.submissions import JobCreate
from api.services import conflicts
from api.services.cost_model import Operations, SetSize, count_operations
from api.services.job_validation import ValidatedRequest, validate_request
from soul_core.spec import ALL, ALL_PRIOR_FORGET_SETS, RETAIN, RETRAINED, TRAIN, JobKind, JobSpec
from soul_core.spec.export import compute_output_bytes
from soul_store import workers
from soul_store.blobs import get_blob_store
from soul_store.database import Session
from soul_store.tables import Dataset
from soul_store.workers import Accelerator

#: Bytes of a stored row per token, in English; and the tokens that a chat template adds to a row.
_BYTES_PER_TOKEN, _TEMPLATE_TOKENS = 4.0, 25
#: Sustained floating point operations per second.
_RATES: dict[Accelerator, float] = {"cpu": 6e10, "cuda": 1.5e14}
_LOAD_SECONDS = 15.0


def estimate(session: Session, caller: Caller, body: JobCreate) -> EstimateOut:
    """Return whether the job would be accepted and what it would cost. Writes nothing."""
    request = validate_request(session, caller, body)
    conflict_problems = conflicts.find_problems(request.all_datasets, body.spec)
    problems = [*request.missing, *request.problems, *conflict_problems]
    warnings = _find_warnings(request, body.spec) + _find_undecidable_criteria(body)
    num_parameters = request.model.facts.get("num_parameters") if request.model else None
    accelerator, basis = _choose_accelerator(session, body.spec)
    if problems or not num_parameters:
        return EstimateOut(
            allowed=not problems,
            errors=problems,
            warnings=warnings,
            seconds=None,
            peak_memory_bytes=None,
            flops=None,
            output_bytes=None,
            basis=basis if num_parameters else "the size of the model is not known before it is loaded",
        )
    operations = _count_operations(body, request, num_parameters)
    num_models = 1 + len(request.resolved_models.get_names())
    # float32 weights, and for training their gradients and two moments; some memory for activations and logits
    bytes_per_parameter = 4 if body.spec.kind == JobKind.EVALUATE else 16
    return EstimateOut(
        allowed=True,
        errors=[],
        warnings=warnings,
        seconds=round(_LOAD_SECONDS * num_models + operations.weighted_total / _RATES[accelerator], 1),
        peak_memory_bytes=int(num_parameters * bytes_per_parameter + body.spec.training.micro_batch_tokens * 1e6),
        flops=operations.total,
        output_bytes=_compute_output_bytes(body, request, num_parameters),
        basis=basis,
    )


def _choose_accelerator(session: Session, spec: JobSpec) -> tuple[Accelerator, str]:
    """Return the accelerator that the estimate assumes, and the basis of the estimate."""
    reason = f"spec.device is '{spec.device}'"
    if spec.device != "auto":
        accelerator: Accelerator = spec.device
    elif best := workers.get_best_accelerator(session):
        accelerator, reason = best, "the fastest that a worker has reported"
    else:
        accelerator, reason = "cpu", "no worker has reported a GPU or a CPU"
    device = "a GPU" if accelerator == "cuda" else "a CPU"
    return accelerator, (
        f"an estimate, correct within a factor of about three: one worker on {device} ({reason}) at "
        f"{_RATES[accelerator]:.3g} operations per second, {_BYTES_PER_TOKEN:g} bytes per token"
    )


def _count_operations(body: JobCreate, request: ValidatedRequest, num_parameters: int) -> Operations:
    """Return the operations of the job, and of the job that makes its retrained model if the body asks for one."""
    sets = {name: _measure(row) for name, row in request.all_datasets.items()}
    num_compared_models = len(request.resolved_models.get_names())
    operations = count_operations(body.spec, sets, num_parameters, num_compared_models=num_compared_models)
    retrain_spec = request.resolved_models.retrain_spec
    if retrain_spec is not None:
        operations += count_operations(retrain_spec, {TRAIN: sets[RETAIN]}, num_parameters, num_compared_models=0)
    return operations


def _measure(row: Dataset) -> SetSize:
    """Return the size of a data set, its tokens estimated from the bytes of its rows."""
    assert row.blob is not None
    bytes_per_row = get_blob_store().get_size_bytes(row.blob) / max(1, row.num_rows or 1)
    return SetSize(row.num_rows or 0, bytes_per_row / _BYTES_PER_TOKEN + _TEMPLATE_TOKENS)


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
    warnings += conflicts.find_warnings(request.all_datasets, spec)
    if request.resolved_models.retrain_spec is not None:
        warnings.append("a model is retrained first, unless an earlier one can be reused: its cost is included")
    return [*warnings, *request.prior_forget_sets.messages]


def _find_undecidable_criteria(body: JobCreate) -> list[str]:
    """Return a warning for each criterion whose metric is not computed: with it no verdict can be `passed`."""
    spec, warnings = body.spec, []
    for number, criterion in enumerate(spec.criteria):
        if criterion.set == ALL_PRIOR_FORGET_SETS:  # applies to the sets that exist
            continue
        if criterion.set != ALL and criterion.set not in body.datasets:
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
