"""Rules of retrained models: which model or log a body names, and the job that makes one if the body asks for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from structlog.contextvars import get_contextvars

from api.auth import Caller
from api.errors import RequestProblem
from api.schemas.submissions import JobCreate, RegisteredRetrainedModel, RetrainedModelLog, RetrainModel
from api.services import conflicts
from soul_core.outputs.layout import REPORT, is_log, make_log_path
from soul_core.spec import JUDGED_MODEL, RETAIN, RETRAINED, TRAIN, Data, Evaluation, JobKind, JobSpec
from soul_core.spec.validation import find_spec_problems
from soul_store import job_queries, jobs, locks, models, retrained_models
from soul_store.database import Session
from soul_store.jobs import Scheduling
from soul_store.placement import JobNeeds
from soul_store.tables import Artifact, Dataset, Job, Model


@dataclass
class ResolvedModels:
    """The models that a body names in addition to its own: by name, as a log, or as the one to retrain from.

    Of the body's problems, `missing` are resources that do not exist, `problems` all others.
    """

    models: dict[str, Model] = field(default_factory=dict)
    log: Artifact | None = None
    retrain_from: Model | None = None
    retrain_spec: JobSpec | None = None
    missing: list[RequestProblem] = field(default_factory=list)
    problems: list[RequestProblem] = field(default_factory=list)

    def get_names(self) -> set[str]:
        """Return the names of the models that will be evaluated in addition."""
        return {*self.models, *({RETRAINED} if self.retrain_spec is not None else ())}


def resolve_models(session: Session, caller: Caller, body: JobCreate) -> ResolvedModels:
    """Find every model and log that the body names in addition to the base model."""
    resolved = ResolvedModels()
    for name, model_id in body.models.items():
        _resolve_model(session, caller, resolved, name, model_id, f"/models/{name}")
    retrained = body.retrained
    if retrained.kind != "none" and RETRAINED in body.models:
        detail = "models.retrained already names a retrained model; omit one of the two"
        resolved.problems.append(RequestProblem("/retrained", detail))
    elif isinstance(retrained, RegisteredRetrainedModel):
        _resolve_model(session, caller, resolved, RETRAINED, retrained.model_id, "/retrained/model_id")
    elif isinstance(retrained, RetrainedModelLog):
        _resolve_log(session, caller, resolved, retrained)
    elif isinstance(retrained, RetrainModel):
        _resolve_retraining(session, caller, resolved, retrained, body)
    return resolved


def find_or_create_retraining(
    session: Session,
    caller: Caller,
    body: JobCreate,
    resolved_models: ResolvedModels,
    datasets: Mapping[str, Dataset],
    needs: JobNeeds,
) -> tuple[Job, bool]:
    """Return the job that makes the retrained model, its row shared, and whether it existed before.

    A new one has the body's priority, and not its limits: other jobs may wait for it, too.
    """
    spec, model, train = resolved_models.retrain_spec, resolved_models.retrain_from, datasets[RETAIN]
    assert spec is not None
    assert model is not None
    spec, excluded = _exclude_forget_facts(spec, body, datasets)
    rows = train.content_sha256 or train.id
    # two requests at the same time share one retraining
    locks.lock(session, caller.tenant_id, model.digest or model.id, rows, spec.compute_sha256())
    existing = retrained_models.find_retraining_job(
        session,
        caller.tenant_id,
        model=model,
        train_sha256=train.content_sha256,
        spec_sha256=spec.compute_sha256(),
        excluded_sha256s={name: row.content_sha256 for name, row in excluded.items()},
    )
    if existing is not None:
        return existing, True
    job = jobs.insert(
        session,
        tenant_id=caller.tenant_id,
        created_by=caller.key_id,
        name=f"retrained model for {body.name}" if body.name else "retrained model",
        kind=spec.kind,
        model_id=model.id,
        datasets={TRAIN: train.id, **{name: row.id for name, row in excluded.items()}},
        spec=spec.model_dump(mode="json"),
        spec_sha256=spec.compute_sha256(),
        request_id=get_contextvars().get("request_id"),
        scheduling=Scheduling(priority=body.priority, needs=needs),
    )
    return job, False


def _exclude_forget_facts(
    spec: JobSpec, body: JobCreate, datasets: Mapping[str, Dataset]
) -> tuple[JobSpec, dict[str, Dataset]]:
    """Return the retraining's spec, and the forget sets whose facts are in the retain set and must be left out of it.

    Most retain sets contain none; then one retrained model serves every forget set.
    """
    if body.spec.retain_conflicts == "keep":
        return spec, {}
    by_set = conflicts.find_learned_set_conflicts(datasets, body.spec)
    excluded = {name: datasets[name] for name, rows in by_set.items() if rows is None or rows}
    if not excluded:
        return spec, {}
    return spec.model_copy(update={"retain_conflicts": body.spec.retain_conflicts}), excluded


def _resolve_model(
    session: Session, caller: Caller, resolved: ResolvedModels, name: str, model_id: str, pointer: str
) -> None:
    row = models.get(session, caller.tenant_id, model_id)
    if row is None:
        resolved.missing.append(RequestProblem(pointer, f"there is no model {model_id}"))
    else:
        resolved.models[name] = row


def _resolve_log(session: Session, caller: Caller, resolved: ResolvedModels, source: RetrainedModelLog) -> None:
    if source.artifact_id is not None:
        artifact = job_queries.get_artifact(session, caller.tenant_id, source.artifact_id)
        if artifact is None:
            detail = f"there is no artifact {source.artifact_id}"
            resolved.missing.append(RequestProblem("/retrained/artifact_id", detail))
        elif artifact.path != REPORT and not is_log(artifact.path):
            accepted = f"{make_log_path('NAME')} or {REPORT}"
            detail = f"{artifact.path} is not a log of a model; name {accepted} of a job's artifacts"
            resolved.problems.append(RequestProblem("/retrained/artifact_id", detail))
        else:
            resolved.log = artifact
        return
    assert source.job_id is not None
    job = job_queries.get(session, caller.tenant_id, source.job_id)
    if job is None:
        resolved.missing.append(RequestProblem("/retrained/job_id", f"there is no job {source.job_id}"))
        return
    names = [RETRAINED] if job.kind == JobKind.UNLEARN else [RETRAINED, JUDGED_MODEL[job.kind]]
    paths = [make_log_path(name) for name in names]
    logs = [job_queries.get_artifact_by_path(session, job.id, path) for path in paths]
    resolved.log = next((log for log in logs if log is not None), None)
    if resolved.log is None:
        detail = f"job {job.id} ({job.kind}, {job.status}) has no log of a retrained model: no {paths[-1]}"
        resolved.problems.append(RequestProblem("/retrained/job_id", detail))


def _resolve_retraining(
    session: Session, caller: Caller, resolved: ResolvedModels, source: RetrainModel, body: JobCreate
) -> None:
    model = models.get(session, caller.tenant_id, source.model_id)
    if model is None:
        detail = f"there is no model {source.model_id}"
        resolved.missing.append(RequestProblem("/retrained/model_id", detail))
    if RETAIN not in body.datasets:
        detail = "a model is retrained on the retain data set, and the job has none; add one"
        resolved.problems.append(RequestProblem("/retrained", detail))
    spec = JobSpec(
        kind=JobKind.FINETUNE,
        data=body.spec.data.model_copy(update={"retain_held_out": Data().retain_held_out}),  # it is of unlearning
        training=source.training,
        optimizer=source.optimizer,
        evaluation=Evaluation(metrics=("probability",)),  # the job that waits evaluates the rest
        dtype=body.spec.dtype,
        device=body.spec.device,
        seed=body.spec.seed,
        chat_template=body.spec.chat_template,
        chat_template_kwargs=body.spec.chat_template_kwargs,
        template_date=body.spec.template_date,
    )
    for place, detail in find_spec_problems(spec, {TRAIN}):
        resolved.problems.append(RequestProblem("/".join(["/retrained", *place.split(".")]), detail))
    resolved.retrain_from, resolved.retrain_spec = model, spec
