"""The work of a job by phase, as the cost model counts it, of a new job and of a finished one."""

from collections.abc import Mapping
from dataclasses import dataclass

from soul_core.spec import JobKind, JobSpec
from soul_store.blobs import BlobStore
from soul_store.cost_model import Operations, SetSize, add_made_sets, count_generation, count_phase_operations
from soul_store.tables import Dataset

#: Bytes of a stored row per token, in English; and the tokens that a chat template adds to a row.
BYTES_PER_TOKEN, _TEMPLATE_TOKENS = 4.0, 25
#: Phases whose work is not floating point operations: start of the engine, and weights that are read and written.
START, LOAD, EXPORT = "start", "load", "export"


@dataclass(frozen=True)
class JobWork:
    """What a job has to do. `by_phase`: weighted operations; for `load` and `export` parameters, for `start` 1."""

    operations: Operations
    by_phase: Mapping[str, float]
    planned_memory_bytes: int

    def __add__(self, other: "JobWork") -> "JobWork":
        phases = self.by_phase.keys() | other.by_phase.keys()
        by_phase = {phase: self.by_phase.get(phase, 0.0) + other.by_phase.get(phase, 0.0) for phase in phases}
        memory = max(self.planned_memory_bytes, other.planned_memory_bytes)
        return JobWork(self.operations + other.operations, by_phase, memory)


def measure_set(row: Dataset, blobs: BlobStore) -> SetSize:
    """Return the size of a data set, its tokens estimated from the bytes of its rows."""
    assert row.blob is not None
    bytes_per_row = blobs.get_size_bytes(row.blob) / max(1, row.num_rows or 1)
    return SetSize(row.num_rows or 0, bytes_per_row / BYTES_PER_TOKEN + _TEMPLATE_TOKENS)


def count_work(spec: JobSpec, sets: Mapping[str, SetSize], num_parameters: int, *, num_compared_models: int) -> JobWork:
    """Return the work of a job that evaluates `num_compared_models` in addition to its own."""
    generation = count_generation(spec, sets, num_parameters)
    sets = add_made_sets(spec, sets)
    operations = count_phase_operations(spec, sets, num_parameters, num_compared_models=num_compared_models)
    if generation.total:  # with the other texts that the base model writes
        operations["baseline"] += generation
    by_phase = {phase: counted.weighted_total for phase, counted in operations.items() if counted.total > 0}
    by_phase |= {START: 1.0, LOAD: float(num_parameters * (1 + num_compared_models)), EXPORT: float(num_parameters)}
    # float32 weights, and for training their gradients and two moments; some memory for activations and logits
    bytes_per_parameter = 4 if spec.kind == JobKind.EVALUATE else 16
    memory = int(num_parameters * bytes_per_parameter + spec.training.micro_batch_tokens * 1e6)
    return JobWork(sum(operations.values(), start=Operations()), by_phase, memory)
