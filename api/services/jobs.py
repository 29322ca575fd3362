"""Rules of jobs: what may be submitted, and how a job looks from outside."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy.orm import Session
from structlog.contextvars import get_contextvars

from api.auth import Caller
from api.errors import ServiceError, make_not_found_error
from api.schemas.jobs import JobOut, ProgressOut, StatusReason
from api.schemas.submissions import JobCreate
from api.services import retrained_models
from api.services.lineage import PriorForgetSets, find_prior_forget_sets
from api.services.retrained_models import ResolvedModels
from soul_core.chat.template import ChatTemplate, find_variables, format_unread_variable
from soul_core.spec import RETAIN, RETRAINED, JobSpec
from soul_core.spec.export import GGUF_ARCHITECTURES
from soul_core.spec.validation import find_spec_problems
from soul_store import datasets, job_queries, job_state_machine, jobs, models
from soul_store.job_state_machine import ActionNotAllowed
from soul_store.retrained_models import ensure_output_model
from soul_store.tables import Dataset, Job, Model

#: Facts of a chat template that was not read yet: a hub model's.
_UNKNOWN: dict[str, Any] = {"asks_for_date": True}


@dataclass(frozen=True)
class ValidatedRequest:
    """What a job's body names and what it carries forward, found and judged. `missing` and `errors` are (pointer,
    detail).
    """

    model: Model | None
    resolved_models: ResolvedModels
    datasets: Mapping[str, Dataset]
    prior_forget_sets: PriorForgetSets
    missing: tuple[tuple[str, str], ...]
    errors: tuple[tuple[str, str], ...]


def validate_request(session: Session, caller: Caller, body: JobCreate) -> ValidatedRequest:
    """Find what the body names and everything that speaks against the job. Its data sets are held until the
    transaction ends: none is deleted before the job is there.
    """
    missing: list[tuple[str, str]] = []
    errors: list[tuple[str, str]] = []
    model = models.get(session, caller.tenant_id, body.model_id)
    if model is None:
        missing.append(("/model_id", f"there is no model {body.model_id}"))
    found: dict[str, Dataset] = {}
    for name, dataset_id in body.datasets.items():
        row = datasets.get(session, caller.tenant_id, dataset_id, for_share=True)
        if row is None:
            missing.append((f"/datasets/{name}", f"there is no data set {dataset_id}"))
        elif row.status != "ready":
            errors.append((f"/datasets/{name}", f"data set {dataset_id} cannot be used: its status is {row.status}"))
        else:
            found[name] = row
    named = retrained_models.resolve_models(session, caller, body)
    errors += _spec_faults(body, named) + _template_faults(body.spec, model)
    errors += _unwritable(body.spec, model)
    carried = PriorForgetSets({}, ())
    if body.spec.kind != "evaluate":
        carried = find_prior_forget_sets(session, caller, model, body.datasets)
    errors += _undone(body.spec, {**found, **carried.datasets})
    return ValidatedRequest(model, named, found, carried, (*missing, *named.missing), (*errors, *named.errors))


def _undone(spec: JobSpec, sets: Mapping[str, Dataset]) -> list[tuple[str, str]]:
    """Find what would be unlearned and learned at once. The engine, which reads the rows, finds more."""
    retain = sets.get(RETAIN)
    return [
        ("/datasets/retain", f"the {name} set and the retain set are the same: the job would undo its own work")
        for name, row in sets.items()
        if retain is not None and spec.unlearns(name) and row.content_sha256 == retain.content_sha256
    ]


def _unwritable(spec: JobSpec, model: Model | None) -> list[tuple[str, str]]:
    """Find a GGUF file that cannot be written of the model. The engine, which has the tokenizer, finds more."""
    architecture = model.facts.get("architecture") if model else None
    known = {*GGUF_ARCHITECTURES, *GGUF_ARCHITECTURES.values()}  # a folder's class, or a GGUF file's own word
    if spec.export.gguf == "none" or architecture is None or architecture in known:
        return []
    detail = f"{architecture} cannot be written as GGUF, only {', '.join(GGUF_ARCHITECTURES)}; set it to 'none'"
    return [("/spec/export/gguf", detail)]


def _spec_faults(body: JobCreate, named: ResolvedModels) -> list[tuple[str, str]]:
    of_sets = list(
        find_spec_problems(body.spec, body.datasets, has_retrained_log=True)
    )  # its lack is told of the models
    with_models = find_spec_problems(
        body.spec, body.datasets, models=named.get_names(), has_retrained_log=named.log is not None
    )
    of_models = [("/models", detail) for place, detail in with_models if (place, detail) not in of_sets]
    return of_models + [
        ("/".join(["/spec", *place.split(".")]) if place else "/datasets", detail) for place, detail in of_sets
    ]


def create(session: Session, caller: Caller, body: JobCreate) -> Job:
    """Queue a job, and the one that retrains its reference where it asks for that.

    Raises 404 or 422 naming everything that is wrong with it; nothing is written then.
    """
    body = _with_template_date(session, caller, body)
    checked = validate_request(session, caller, body)
    if checked.missing:
        raise ServiceError(404, "not_found", checked.missing[0][1], errors=checked.missing)
    if checked.errors:
        count = len(checked.errors)
        detail = checked.errors[0][1] if count == 1 else f"{count} things speak against this job"
        raise ServiceError(422, "invalid_job", detail, errors=checked.errors)
    beside = {name: row.id for name, row in checked.resolved_models.models.items()}
    after, found = None, False
    if checked.resolved_models.retrain_spec is not None:
        after, found = retrained_models.find_or_create_retraining(
            session, caller, body, checked.resolved_models, {**checked.datasets, **checked.prior_forget_sets.datasets}
        )
        if after.status == "succeeded":
            beside[RETRAINED] = ensure_output_model(session, after).id
    job = jobs.insert(
        session,
        tenant_id=caller.tenant_id,
        created_by=caller.key_id,
        name=body.name,
        kind=body.spec.kind,
        model_id=body.model_id,
        models=beside,
        retrained_log_id=checked.resolved_models.log.id if checked.resolved_models.log else None,
        depends_on=after,
        datasets={**body.datasets, **checked.prior_forget_sets.get_ids()},
        spec=body.spec.model_dump(mode="json"),
        spec_sha256=body.spec.compute_sha256(),
        request_id=get_contextvars().get("request_id"),
    )
    if after is not None:
        job_state_machine.append_event(session, job, "log", {"message": _retraining_words(after, found=found)})
    for message in checked.prior_forget_sets.messages:
        job_state_machine.append_event(session, job, "log", {"message": message})
    return job


def _with_template_date(session: Session, caller: Caller, body: JobCreate) -> JobCreate:
    """Pin the day on which the chat template renders, where it may ask for one: the job's numbers depend on it."""
    model = models.get(session, caller.tenant_id, body.model_id)
    own = body.spec.chat_template
    chat = (model.facts or {}).get("chat", _UNKNOWN) if model else None
    asks = ChatTemplate(own).asks_for_date if own is not None else chat is not None and chat["asks_for_date"]
    if body.spec.template_date is not None or not asks:
        return body
    return body.model_copy(update={"spec": body.spec.model_copy(update={"template_date": datetime.now(UTC).date()})})


def _template_faults(spec: JobSpec, model: Model | None) -> list[tuple[str, str]]:
    """Find variables that the model's chat template does not read."""
    if model is None or not spec.chat_template_kwargs:
        return []
    if spec.chat_template is not None:
        known = find_variables(spec.chat_template, {})
    else:
        chat = (model.facts or {}).get("chat", _UNKNOWN)
        if chat is _UNKNOWN:  # a hub model: the engine finds out
            return []
        known = chat["variables"] if chat else ()
    return [
        (f"/spec/chat_template_kwargs/{name}", format_unread_variable(name, known))
        for name in spec.chat_template_kwargs
        if name not in known
    ]


def _retraining_words(after: Job, *, found: bool) -> str:
    if after.status == "succeeded":
        return f"the reference was retrained before, with the same model, rows and settings, by job {after.id}"
    again = ", found again: it has the same model, rows and settings" if found else ""
    return f"waits for job {after.id}, which retrains the reference{again}"


def get_owned(session: Session, caller: Caller, job_id: str, *, kind: str | None = None) -> Job:
    """Return the caller's job; another tenant's is not there."""
    job = job_queries.get(session, caller.tenant_id, job_id)
    if job is None or (kind is not None and job.kind != kind):
        raise make_not_found_error(f"{'evaluation' if kind == 'evaluate' else 'job'} {job_id}")
    return job


def cancel(session: Session, caller: Caller, job: Job) -> Job:
    """Cancel a job, or wish it cancelled when it runs."""
    try:
        return jobs.request_cancel(session, job, caller.key_id)
    except ActionNotAllowed as error:
        raise ServiceError(
            409, "not_allowed", str(error), status_now=error.status, allowed_actions=list(error.allowed_actions)
        ) from error


def make_job_out(session: Session, job: Job) -> JobOut:
    """Return a job as HTTP shows it."""
    progress: dict[str, Any] = {**job.progress, "queue_position": job_queries.get_queue_position(session, job)}
    here = f"/v1/jobs/{job.id}"
    links = {"self": here, "events": f"{here}/events", "stream": f"{here}/events/stream", "metrics": f"{here}/metrics"}
    links["logs"] = f"{here}/logs"
    if job.report_blob is not None:
        links |= {"report": f"{here}/report", "artifacts": f"{here}/artifacts"}
    return JobOut(
        id=job.id,
        name=job.name,
        kind=job.kind,
        status=job.status,
        phase=job.phase,
        verdict=job.verdict,
        requested_action=job.requested_action,
        status_reason=StatusReason(**job.status_reason) if job.status_reason else None,
        allowed_actions=list(job_state_machine.get_allowed_actions(job.status)),
        progress=ProgressOut(**progress),
        attempt=job.attempt,
        model_id=job.model_id,
        models=job.models,
        retrained_log_id=job.retrained_log_id,
        depends_on_job_id=job.depends_on_job_id,
        datasets=job.datasets,
        spec=job.spec,
        spec_sha256=job.spec_sha256,
        usage=job.usage,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        updated_at=job.updated_at,
        links=links,
    )
