"""What a job would cost, before it costs anything. A rough sum that says what it rests on, never a promise."""

from sqlalchemy.orm import Session

from api.auth import Caller
from api.schemas.jobs import EstimateOut
from api.schemas.submissions import JobCreate
from api.services import conflicts
from api.services.cost_model import Operations, SetSize, count_operations
from api.services.jobs import ValidatedRequest, validate_request
from soul_core.spec import ALL, ALL_PRIOR_FORGET_SETS, RETAIN, TRAIN, JobSpec
from soul_core.spec.export import compute_output_bytes
from soul_store.blobs import get_blob_store
from soul_store.tables import Dataset

#: Bytes of a stored row a token stands for, in English; and tokens a chat template adds to a row.
_BYTES_PER_TOKEN, _TEMPLATE_TOKENS = 4.0, 25
#: Sustained floating point operations a second.
_RATES = {"cpu": 6e10, "cuda": 1.5e14}
_LOAD_SECONDS = 15.0


def estimate(session: Session, caller: Caller, body: JobCreate) -> EstimateOut:
    """Say whether the job would be taken and what it would take. Writes nothing."""
    checked = validate_request(session, caller, body)
    sets = {**checked.datasets, **checked.prior_forget_sets.datasets}
    refused = conflicts.find_errors(sets, body.spec)
    errors = [
        {"pointer": pointer, "detail": detail} for pointer, detail in (*checked.missing, *checked.errors, *refused)
    ]
    warnings = _warnings(checked, body.spec) + _undecidable(body)
    num_parameters = checked.model.facts.get("num_parameters") if checked.model else None
    kind = "cuda" if body.spec.device == "cuda" else "cpu"
    basis = (
        f"an estimate, right within a factor of three or so: one worker on {'a GPU' if kind == 'cuda' else 'a CPU'} at "
        f"{_RATES[kind]:.0e} operations a second, {_BYTES_PER_TOKEN:g} bytes a token"
    )
    if errors or not num_parameters:
        return EstimateOut(
            allowed=not errors,
            errors=errors,
            warnings=warnings,
            seconds=None,
            peak_memory_bytes=None,
            flops=None,
            output_bytes=None,
            basis=basis if num_parameters else "the model's size is not known before it is loaded",
        )
    taken = _operations(body, checked, num_parameters)
    num_models = 1 + len(checked.resolved_models.get_names())
    # weights, and where they are trained gradient and two moments, in float32; some room for activations and logits
    a_parameter = 4 if body.spec.kind == "evaluate" else 16
    return EstimateOut(
        allowed=True,
        errors=[],
        warnings=warnings,
        seconds=round(_LOAD_SECONDS * num_models + taken.weighted_total / _RATES[kind], 1),
        peak_memory_bytes=int(num_parameters * a_parameter + body.spec.training.micro_batch_tokens * 1e6),
        flops=taken.total,
        output_bytes=_output_bytes(body, checked, num_parameters),
        basis=basis,
    )


def _output_bytes(body: JobCreate, checked: ValidatedRequest, num_parameters: int) -> int | None:
    """Return the size of the weights that are written. Models registered by an earlier version are taken as float32."""
    if body.spec.kind == "evaluate" or checked.model is None:
        return None
    stored = checked.model.facts.get("parameters_by_dtype") or {}
    return compute_output_bytes(body.spec.export, stored, num_parameters=num_parameters)


def _operations(body: JobCreate, checked: ValidatedRequest, num_parameters: int) -> Operations:
    """Return what the job takes, and the one that retrains its reference where it asks for that."""
    rows = {**checked.datasets, **checked.prior_forget_sets.datasets}
    sets = {name: SetSize(row.num_rows or 0, _tokens_a_row(row)) for name, row in rows.items()}
    taken = count_operations(
        body.spec, sets, num_parameters, num_compared_models=len(checked.resolved_models.get_names())
    )
    if checked.resolved_models.retrain_spec is not None:
        taken += count_operations(
            checked.resolved_models.retrain_spec, {TRAIN: sets[RETAIN]}, num_parameters, num_compared_models=0
        )
    return taken


def _tokens_a_row(row: Dataset) -> float:
    assert row.blob is not None
    return get_blob_store().get_size_bytes(row.blob) / max(1, row.num_rows or 1) / _BYTES_PER_TOKEN + _TEMPLATE_TOKENS


def _warnings(checked: ValidatedRequest, spec: JobSpec) -> list[str]:
    found = []
    for name, row in checked.datasets.items():
        groups = (row.validation or {}).get("duplicates", [])
        if groups:
            found.append(f"{name}: {sum(map(len, groups)) - len(groups)} rows repeat others")
    found += conflicts.find_warnings({**checked.datasets, **checked.prior_forget_sets.datasets}, spec)
    if checked.resolved_models.retrain_spec is not None:
        found.append("the reference is retrained first, unless one is found again: its cost is in the sum")
    return [*found, *checked.prior_forget_sets.messages]


def _undecidable(body: JobCreate) -> list[str]:
    """Say which criteria nothing will be measured for: with one of them no verdict can be `passed`."""
    spec, found = body.spec, []
    for number, criterion in enumerate(spec.criteria):
        if criterion.set == ALL_PRIOR_FORGET_SETS:  # on those there are
            continue
        if criterion.set != ALL and criterion.set not in body.datasets:
            lacking = f"the data set '{criterion.set}', which the job does not have"
        elif criterion.metric not in spec.evaluation.metrics:
            lacking = f"'{criterion.metric}', which evaluation.metrics does not name"
        elif criterion.relative_to_base and spec.kind == "evaluate":
            lacking = "a base to compare with, and an evaluation has none"
        else:
            continue
        found.append(f"criteria.{number} needs {lacking}: it will be inconclusive")
    return found
