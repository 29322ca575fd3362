"""Rules of references: what a body names as the retrained model, and the job that retrains it where it asks for one."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars

from api.auth import Caller
from api.schemas.submissions import JobCreate, RegisteredRetrainedModel, RetrainedModelLog, RetrainModel
from api.services import conflicts
from soul_core.outputs.layout import REPORT, is_log, make_log_path
from soul_core.spec import JUDGED_MODEL, RETAIN, RETRAINED, TRAIN, Evaluation, JobSpec
from soul_core.spec.validation import find_spec_problems
from soul_store import job_queries, jobs, models, retrained_models
from soul_store.tables import Artifact, Dataset, Job, Model

Faults = list[tuple[str, str]]


@dataclass
class ResolvedModels:
    """The models a body names beside its own, found: by name, or as a log, or as the one to retrain from.

    `missing` and `errors` are (pointer, detail).
    """

    models: dict[str, Model] = field(default_factory=dict)
    log: Artifact | None = None
    retrain_from: Model | None = None
    retrain_spec: JobSpec | None = None
    missing: Faults = field(default_factory=list)
    errors: Faults = field(default_factory=list)

    def get_names(self) -> set[str]:
        """Return the names under which models will be measured."""
        return {*self.models, *({RETRAINED} if self.retrain_spec is not None else ())}


def resolve_models(session: Session, caller: Caller, body: JobCreate) -> ResolvedModels:
    """Find every model, log and data set the body names beside the base model and the job's own sets."""
    named = ResolvedModels()
    for name, model_id in body.models.items():
        _find_model(session, caller, named, name, model_id, f"/models/{name}")
    retrained = body.retrained
    if retrained.kind != "none" and RETRAINED in body.models:
        named.errors.append(("/retrained", "models.reference names a retrained model already; leave one of both out"))
    elif isinstance(retrained, RegisteredRetrainedModel):
        _find_model(session, caller, named, RETRAINED, retrained.model_id, "/retrained/model_id")
    elif isinstance(retrained, RetrainedModelLog):
        _find_log(session, caller, named, retrained)
    elif isinstance(retrained, RetrainModel):
        _find_retraining(session, caller, named, retrained, body)
    return named


def find_or_create_retraining(
    session: Session, caller: Caller, body: JobCreate, resolved_models: ResolvedModels, datasets: Mapping[str, Dataset]
) -> tuple[Job, bool]:
    """Return the job that retrains the reference, its row held, and whether it was there already."""
    spec, model, train = resolved_models.retrain_spec, resolved_models.retrain_from, datasets[RETAIN]
    assert spec is not None
    assert model is not None
    spec, excluded = _without_forget_facts(spec, body, datasets)
    rows = train.content_sha256 or train.id
    retrained_models.lock(session, caller.tenant_id, model.digest or model.id, rows, spec.compute_sha256())
    found = retrained_models.find_retraining_job(
        session,
        caller.tenant_id,
        model=model,
        train_sha256=train.content_sha256,
        spec_sha256=spec.compute_sha256(),
        excluded_sha256s={name: row.content_sha256 for name, row in excluded.items()},
    )
    if found is not None:
        return found, True
    made = jobs.insert(
        session,
        tenant_id=caller.tenant_id,
        created_by=caller.key_id,
        name=f"retrained reference for {body.name}" if body.name else "retrained reference",
        kind=spec.kind,
        model_id=model.id,
        datasets={TRAIN: train.id, **{name: row.id for name, row in excluded.items()}},
        spec=spec.model_dump(mode="json"),
        spec_sha256=spec.compute_sha256(),
        request_id=get_contextvars().get("request_id"),
    )
    return made, False


def _without_forget_facts(
    spec: JobSpec, body: JobCreate, datasets: Mapping[str, Dataset]
) -> tuple[JobSpec, dict[str, Dataset]]:
    """Return the retraining's spec and the forget sets it has to leave out: those whose facts are in the retain set.

    Most retain sets have none; one retrained model then serves every forget set beside them.
    """
    if body.spec.retain_conflicts == "keep":
        return spec, {}
    found = conflicts.find_learned_set_conflicts(datasets, body.spec)
    excluded = {name: datasets[name] for name, rows in found.items() if rows is None or rows}
    if not excluded:
        return spec, {}
    return spec.model_copy(update={"retain_conflicts": body.spec.retain_conflicts}), excluded


def _find_model(
    session: Session, caller: Caller, named: ResolvedModels, name: str, model_id: str, pointer: str
) -> None:
    row = models.get(session, caller.tenant_id, model_id)
    if row is None:
        named.missing.append((pointer, f"there is no model {model_id}"))
    else:
        named.models[name] = row


def _find_log(session: Session, caller: Caller, named: ResolvedModels, wanted: RetrainedModelLog) -> None:
    if wanted.artifact_id is not None:
        found = job_queries.get_artifact(session, caller.tenant_id, wanted.artifact_id)
        if found is None:
            named.missing.append(("/retrained/artifact_id", f"there is no artifact {wanted.artifact_id}"))
        elif found.path != REPORT and not is_log(found.path):
            allowed = f"{make_log_path('NAME')} and {REPORT}"
            detail = f"{found.path} is no log of a model; those are {allowed} of a job's artifacts"
            named.errors.append(("/retrained/artifact_id", detail))
        else:
            named.log = found
        return
    assert wanted.job_id is not None
    job = job_queries.get(session, caller.tenant_id, wanted.job_id)
    if job is None:
        named.missing.append(("/retrained/job_id", f"there is no job {wanted.job_id}"))
        return
    names = [RETRAINED, *(judged for kind, judged in JUDGED_MODEL.items() if kind == job.kind and kind != "unlearn")]
    logs = [job_queries.get_artifact_by_path(session, job.id, make_log_path(name)) for name in names]
    named.log = next((log for log in logs if log is not None), None)
    if named.log is None:
        detail = f"job {job.id} ({job.kind}, {job.status}) has no log of a reference: no {make_log_path(names[-1])}"
        named.errors.append(("/retrained/job_id", detail))


def _find_retraining(
    session: Session, caller: Caller, named: ResolvedModels, wanted: RetrainModel, body: JobCreate
) -> None:
    model = models.get(session, caller.tenant_id, wanted.model_id)
    if model is None:
        named.missing.append(("/retrained/model_id", f"there is no model {wanted.model_id}"))
    if RETAIN not in body.datasets:
        named.errors.append(("/retrained", "the reference is retrained on the retain data set, and there is none"))
    spec = JobSpec(
        kind="finetune",
        data=body.spec.data,
        training=wanted.training,
        optimizer=wanted.optimizer,
        evaluation=Evaluation(metrics=("probability",)),  # the unlearning job measures the rest beside its own model
        dtype=body.spec.dtype,
        device=body.spec.device,
        seed=body.spec.seed,
        chat_template=body.spec.chat_template,
        chat_template_kwargs=body.spec.chat_template_kwargs,
        template_date=body.spec.template_date,
    )
    problems = find_spec_problems(spec, {TRAIN})
    named.errors += [("/".join(["/retrained", *place.split(".")]), detail) for place, detail in problems]
    named.retrain_from, named.retrain_spec = model, spec
