"""Retrained references: the fine-tuning job that makes one, found again by digest, and its output as a model."""

import hashlib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sqlalchemy import ColumnElement, Text, cast, exists, or_, select, text
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, array
from sqlalchemy.orm import Session, aliased

from soul_core.models.files import MODEL_FILE_PATTERNS, ModelFile, compute_digest
from soul_core.outputs.layout import CHECKPOINT
from soul_core.spec import TRAIN
from soul_core.spec.export import Export, count_export_parameters
from soul_store import models
from soul_store.tables import Artifact, Dataset, Job, Model


def lock(session: Session, *names: str) -> None:
    """Let one transaction at a time look for, or make, what is named: two requests at once share one retraining."""
    number = int.from_bytes(hashlib.sha256(" ".join(names).encode()).digest()[:8], "big", signed=True)
    session.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": number})


def find_retraining_job(
    session: Session,
    tenant_id: str,
    *,
    model: Model,
    train_sha256: str | None,
    spec_sha256: str,
    excluded_sha256s: Mapping[str, str | None],
) -> Job | None:
    """Return a fine-tuning job on the same model, rows and spec that has succeeded or still may; its row is held.

    The same model is one of the same content, wherever it was registered. A job whose output was registered and then
    deleted is not found: that is how a user has a damaged one retrained.
    """
    same_model = Model.id == model.id if model.digest is None else Model.digest == model.digest
    output, live = aliased(Model), aliased(Model)
    output_was_deleted = exists().where(output.parent_job_id == Job.id, output.deleted_at.is_not(None))
    output_is_there = exists().where(live.parent_job_id == Job.id, live.deleted_at.is_(None))
    query = (
        select(Job)
        .join(Model, Model.id == Job.model_id)
        .join(Dataset, Dataset.id == Job.datasets[TRAIN].astext)
        .where(
            Job.tenant_id == tenant_id,
            Job.kind == "finetune",
            Job.status.in_(("awaiting_approval", "queued", "running", "paused", "succeeded")),
            Job.spec_sha256 == spec_sha256,
            Dataset.content_sha256 == train_sha256,
            same_model,
            or_(~output_was_deleted, output_is_there),
            *_same_sets(excluded_sha256s),
        )
        .order_by((Job.status == "succeeded").desc(), Job.id)
        .limit(1)
    )
    return session.scalar(query.with_for_update(read=True, of=Job).execution_options(populate_existing=True))


def _same_sets(sha256s: Mapping[str, str | None]) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions under which a fine-tuning job has data sets of this content beside its train set, and no
    others.
    """
    for name, sha256 in sha256s.items():
        other = aliased(Dataset)
        yield exists().where(other.id == Job.datasets[name].astext, other.content_sha256 == sha256)
    names = cast(array([TRAIN, *sha256s]), ARRAY(Text))
    yield Job.datasets.op("-")(names) == cast({}, JSONB)


def ensure_output_model(session: Session, job: Job) -> Model:
    """Return the model a succeeded job made, registered the first time it is asked for."""
    known = select(Model).where(Model.parent_job_id == job.id, Model.deleted_at.is_(None)).order_by(Model.id).limit(1)
    if (found := session.scalar(known)) is not None:
        return found
    made = find_checkpoint(session, job)
    assert made is not None, f"{job.id} succeeded without a checkpoint"
    name = job.name or f"output of {job.id}"
    return models.insert(session, tenant_id=job.tenant_id, actor="system", name=name, source="job", **made)


def find_checkpoint(session: Session, job: Job) -> dict[str, Any] | None:
    """Return what pins a job's checkpoint as a model: where it lies, its digest, its facts. None where it made none."""
    query = select(Artifact).where(Artifact.job_id == job.id, Artifact.path.startswith(f"{CHECKPOINT}/"))
    files = list(session.scalars(query.order_by(Artifact.path)))
    if not files:
        return None
    loaded = tuple(
        ModelFile(name, file.size_bytes, file.sha256)
        for file in files
        if any(
            fnmatchcase(name := file.path.removeprefix(f"{CHECKPOINT}/"), pattern) for pattern in MODEL_FILE_PATTERNS
        )
        and "/" not in name
    )
    return {
        "location": files[0].blob.removesuffix(files[0].path) + CHECKPOINT,
        "digest": compute_digest(loaded),
        "facts": _facts_of_export(session.get_one(Model, job.model_id).facts, job),
        "parent_job_id": job.id,
    }


def _facts_of_export(facts: dict[str, Any], job: Job) -> dict[str, Any]:
    """Return the base's facts, with the dtypes that the job's files have, and without those of the base's chat template
    where the job exported one of its own.
    """
    if job.spec.get("chat_template"):
        facts = {name: value for name, value in facts.items() if name != "chat"}
    stored = facts.get("parameters_by_dtype")
    if not stored:
        return facts
    export = Export.model_validate(job.spec.get("export", {}))
    return {**facts, "parameters_by_dtype": count_export_parameters(export, stored)}
