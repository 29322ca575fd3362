"""What a job would cost, before it costs anything. A rough sum that says what it rests on, never a promise."""

from sqlalchemy.orm import Session

from api.auth import Caller
from api.schemas import EstimateOut, JobCreate
from api.services.jobs import Checked, check
from api.store.blobs import blobs
from api.store.tables import Dataset
from soul_core.rows import overlap, read_rows
from soul_core.spec import FORGET, RETAIN, JobSpec

#: Bytes of a stored row a token stands for, in English; and tokens a chat template adds to a row.
_BYTES_PER_TOKEN, _TEMPLATE_TOKENS = 4.0, 25
#: Sustained floating point operations a second.
_RATES = {"cpu": 6e10, "cuda": 1.5e14}
#: Answers end before their longest length, on average.
_USUAL_ANSWER_SHARE = 0.4
#: Generating reads all weights for each token: that many times slower than their arithmetic on a CPU.
_GENERATION_PENALTY = 8
_LOAD_SECONDS = 15.0


def estimate(session: Session, caller: Caller, body: JobCreate) -> EstimateOut:
    """Say whether the job would be taken and what it would take. Writes nothing."""
    checked = check(session, caller, body)
    errors = [{"pointer": pointer, "detail": detail} for pointer, detail in (*checked.missing, *checked.errors)]
    warnings = _warnings(checked) + _undecidable(body)
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
    flops, weighted = _operations(body.spec, checked, num_parameters)
    return EstimateOut(
        allowed=True,
        errors=[],
        warnings=warnings,
        seconds=round(_LOAD_SECONDS + weighted / _RATES[kind], 1),
        # weights, gradient and two moments in float32, and some room for activations and logits
        peak_memory_bytes=int(num_parameters * 16 + body.spec.training.micro_batch_tokens * 1e6),
        flops=flops,
        output_bytes=num_parameters * 4,
        basis=basis,
    )


def _operations(spec: JobSpec, checked: Checked, num_parameters: int) -> tuple[float, float]:
    """Return (operations, operations weighted by how slowly they go)."""
    tokens = {name: _tokens_a_row(row) for name, row in checked.datasets.items()}
    training = spec.training
    a_step = training.forget_batch * tokens[FORGET] + training.retain_batch * tokens.get(RETAIN, 0.0)
    curvature = 1.5 if spec.optimizer.kind == "sophia" else 1.0
    train = 6.0 * num_parameters * a_step * training.steps * curvature
    score = generate = 0.0
    for name, row in checked.datasets.items():
        measured = min(row.num_rows or 0, spec.evaluation.max_examples)
        score += 2 * 2.0 * num_parameters * measured * tokens[name]
        answers = spec.evaluation.max_new_tokens * _USUAL_ANSWER_SHARE
        generate += 2 * 2.0 * num_parameters * measured * answers
    return train + score + generate, train + score + generate * _GENERATION_PENALTY


def _tokens_a_row(row: Dataset) -> float:
    assert row.blob is not None
    return blobs().size(row.blob) / max(1, row.num_rows or 1) / _BYTES_PER_TOKEN + _TEMPLATE_TOKENS


def _warnings(checked: Checked) -> list[str]:
    found = []
    for name, row in checked.datasets.items():
        groups = (row.validation or {}).get("duplicates", [])
        if groups:
            found.append(f"{name}: {sum(map(len, groups)) - len(groups)} rows repeat others")
    if FORGET in checked.datasets and RETAIN in checked.datasets:
        shared = _shared(checked.datasets[FORGET], checked.datasets[RETAIN])
        if shared:
            found.append(f"{shared} rows of the forget set are also in the retain set: they would be kept")
    return found


def _undecidable(body: JobCreate) -> list[str]:
    """Say which criteria nothing will be measured for: with one of them no verdict can be `passed`."""
    spec, found = body.spec, []
    for number, criterion in enumerate(spec.criteria):
        if criterion.set not in body.datasets:
            lacking = f"the data set '{criterion.set}', which the job does not have"
        elif criterion.metric not in spec.evaluation.metrics:
            lacking = f"'{criterion.metric}', which evaluation.metrics does not name"
        else:
            continue
        found.append(f"criteria.{number} needs {lacking}: it will be inconclusive")
    return found


def _shared(forget: Dataset, retain: Dataset) -> int:
    rows = []
    for row in (forget, retain):
        assert row.blob is not None
        path = blobs().local_path(row.blob)
        if path is None:
            return 0
        rows.append(read_rows(path, format="jsonl").rows)
    found = overlap(*rows)
    return len(found.identical) + len(found.same_prompt)
