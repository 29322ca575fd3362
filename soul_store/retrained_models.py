"""Retrained models: finds the fine-tuning job that makes one by the digests of its inputs; registers its output."""

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, exists, or_, select
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, array
from sqlalchemy.orm import Session, aliased

from soul_core.models.files import MODEL_FILE_PATTERNS, ModelFile, compute_digest
from soul_core.outputs.layout import CHECKPOINT
from soul_core.spec import TRAIN, JobKind
from soul_core.spec.export import Export, count_export_parameters
from soul_store import models
from soul_store.job_status import JobStatus
from soul_store.tables import Artifact, Dataset, Job, Model


def find_retraining_job(
    session: Session,
    tenant_id: str,
    *,
    model: Model,
    train_sha256: str | None,
    spec_sha256: str,
    excluded_sha256s: Mapping[str, str | None],
) -> Job | None:
    """Return a fine-tuning job on the same model, rows and spec that has succeeded or still may, its row shared.

    The same model is one with the same content, wherever it was registered. A job whose output was registered and then
    deleted is not returned: deleting a damaged output is how a user has it made again.

    Args:
        excluded_sha256s: Name -> content digest of the forget sets whose facts the training leaves out.
    """
    is_same_model = Model.id == model.id if model.digest is None else Model.digest == model.digest
    output, live = aliased(Model), aliased(Model)
    output_was_deleted = exists().where(output.parent_job_id == Job.id, output.deleted_at.is_not(None))
    output_exists = exists().where(live.parent_job_id == Job.id, live.deleted_at.is_(None))
    query = (
        select(Job)
        .join(Model, Model.id == Job.model_id)
        .join(Dataset, Dataset.id == Job.datasets[TRAIN].astext)
        .where(
            Job.tenant_id == tenant_id,
            Job.kind == JobKind.FINETUNE,
            Job.status.not_in((JobStatus.FAILED, JobStatus.CANCELLED)),
            Job.spec_sha256 == spec_sha256,
            Dataset.content_sha256 == train_sha256,
            is_same_model,
            or_(~output_was_deleted, output_exists),
            *_has_datasets(excluded_sha256s),
        )
        .order_by((Job.status == JobStatus.SUCCEEDED).desc(), Job.id)
        .limit(1)
    )
    return session.scalar(query.with_for_update(read=True, of=Job).execution_options(populate_existing=True))


def _has_datasets(sha256s: Mapping[str, str | None]) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions for a fine-tuning job with data sets of this content, and no others, next to `train`."""
    for name, sha256 in sha256s.items():
        other = aliased(Dataset)
        yield exists().where(other.id == Job.datasets[name].astext, other.content_sha256 == sha256)
    names = cast(array([TRAIN, *sha256s]), ARRAY(Text))
    yield Job.datasets.op("-")(names) == cast({}, JSONB)


def ensure_output_model(session: Session, job: Job) -> Model:
    """Return the model that a succeeded job made; the first call registers it."""
    query = select(Model).where(Model.parent_job_id == job.id, Model.deleted_at.is_(None)).order_by(Model.id).limit(1)
    if (model := session.scalar(query)) is not None:
        return model
    checkpoint = find_checkpoint(session, job)
    assert checkpoint is not None, f"{job.id} succeeded without a checkpoint"
    name = job.name or f"output of {job.id}"
    return models.insert(session, tenant_id=job.tenant_id, actor="system", name=name, source="job", **checkpoint)


def find_checkpoint(session: Session, job: Job) -> dict[str, Any] | None:
    """Return the columns of a model that are a job's checkpoint: location, digest, facts. None if it made none."""
    query = select(Artifact).where(Artifact.job_id == job.id, Artifact.path.startswith(f"{CHECKPOINT}/"))
    files = list(session.scalars(query.order_by(Artifact.path)))
    if not files:
        return None
    model_files = tuple(
        ModelFile(name, file.size_bytes, file.sha256)
        for file in files
        if any(
            fnmatchcase(name := file.path.removeprefix(f"{CHECKPOINT}/"), pattern) for pattern in MODEL_FILE_PATTERNS
        )
        and "/" not in name
    )
    return {
        "location": files[0].blob.removesuffix(files[0].path) + CHECKPOINT,
        "digest": compute_digest(model_files),
        "facts": _make_output_facts(session.get_one(Model, job.model_id).facts, job),
        "parent_job_id": job.id,
    }


def _make_output_facts(base_facts: dict[str, Any], job: Job) -> dict[str, Any]:
    """Return the base model's facts with the dtypes of the job's files; without the facts of the base's chat template
    if the job exported another template.
    """
    facts = dict(base_facts)
    if job.spec.get("chat_template"):
        facts.pop("chat", None)
    if stored := facts.get("parameters_by_dtype"):
        export = Export.model_validate(job.spec.get("export", {}))
        facts["parameters_by_dtype"] = count_export_parameters(export, stored)
    return facts
