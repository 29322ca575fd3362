"""Finds what the body of a job refers to, and its problems that no single field shows."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from api.auth import Caller
from api.errors import RequestProblem
from api.schemas.submissions import JobCreate
from api.services import retrained_models
from api.services.lineage import PriorForgetSets, find_prior_forget_sets
from api.services.retrained_models import ResolvedModels
from soul_core.chat.template import find_variables, format_unread_variable
from soul_core.spec import RETAIN, JobKind, JobSpec
from soul_core.spec.export import GGUF_ARCHITECTURES
from soul_core.spec.validation import find_spec_problems
from soul_store import datasets, models
from soul_store.database import Session
from soul_store.tables import Dataset, Model

#: A later deadline is a mistake, and some databases and languages cannot represent the latest dates.
MAX_DEADLINE = timedelta(days=3660)
#: Facts of a chat template that was not read yet: the template of a hub model.
UNKNOWN_CHAT_FACTS: dict[str, Any] = {"asks_for_date": True}


@dataclass(frozen=True)
class ValidatedRequest:
    """The rows that a body refers to, and its problems: `missing` resources (404), and other `problems` (422)."""

    model: Model | None
    resolved_models: ResolvedModels
    datasets: Mapping[str, Dataset]
    prior_forget_sets: PriorForgetSets
    missing: tuple[RequestProblem, ...]
    problems: tuple[RequestProblem, ...]

    @property
    def all_datasets(self) -> dict[str, Dataset]:
        """The body's own data sets and the prior forget sets."""
        return {**self.datasets, **self.prior_forget_sets.datasets}


def validate_request(session: Session, caller: Caller, body: JobCreate) -> ValidatedRequest:
    """Find what the body refers to and every problem of it.

    The rows of its data sets are shared until the transaction ends: none is deleted before the job exists.
    """
    missing: list[RequestProblem] = []
    problems: list[RequestProblem] = []
    model = models.get(session, caller.tenant_id, body.model_id)
    if model is None:
        missing.append(RequestProblem("/model_id", f"there is no model {body.model_id}"))
    own_datasets: dict[str, Dataset] = {}
    for name, dataset_id in body.datasets.items():
        row = datasets.get(session, caller.tenant_id, dataset_id, for_share=True)
        if row is None:
            missing.append(RequestProblem(f"/datasets/{name}", f"there is no data set {dataset_id}"))
        elif row.status != "ready":
            detail = f"data set {dataset_id} is not ready: its status is {row.status}"
            problems.append(RequestProblem(f"/datasets/{name}", detail))
        else:
            own_datasets[name] = row
    resolved = retrained_models.resolve_models(session, caller, body)
    problems += find_spec_and_model_problems(body, resolved)
    if model is not None:
        problems += find_template_problems(body.spec, model)
        problems += find_export_problems(body.spec, model)
    prior = PriorForgetSets({}, ())
    if body.spec.kind != JobKind.EVALUATE:
        prior = find_prior_forget_sets(session, caller, model, body.datasets)
    problems += find_deadline_problems(body)
    problems += find_equal_sets(body.spec, {**own_datasets, **prior.datasets})
    return ValidatedRequest(
        model, resolved, own_datasets, prior, (*missing, *resolved.missing), (*problems, *resolved.problems)
    )


def find_spec_and_model_problems(body: JobCreate, resolved: ResolvedModels) -> list[RequestProblem]:
    """Return the problems of the spec with the body's data sets, after those with its models."""
    has_log = resolved.log is not None
    with_models = find_spec_problems(body.spec, body.datasets, models=resolved.get_names(), has_retrained_log=has_log)
    # with a log no retrained model is missing: what remains are the problems of the spec alone
    alone = list(find_spec_problems(body.spec, body.datasets, has_retrained_log=True))
    problems = [RequestProblem("/models", detail) for place, detail in with_models if (place, detail) not in alone]
    for place, detail in alone:
        pointer = "/".join(["/spec", *place.split(".")]) if place else "/datasets"
        problems.append(RequestProblem(pointer, detail))
    return problems


def find_template_problems(spec: JobSpec, model: Model) -> Iterator[RequestProblem]:
    """Yield the variables in the spec that the chat template does not read. The engine checks a hub model's."""
    if not spec.chat_template_kwargs:
        return
    if spec.chat_template is not None:
        variables = find_variables(spec.chat_template, {})
    else:
        chat = (model.facts or {}).get("chat", UNKNOWN_CHAT_FACTS)
        if chat is UNKNOWN_CHAT_FACTS:
            return
        variables = chat["variables"] if chat else ()
    for name in spec.chat_template_kwargs:
        if name not in variables:
            detail = format_unread_variable(name, variables)
            yield RequestProblem(f"/spec/chat_template_kwargs/{name}", detail)


def find_export_problems(spec: JobSpec, model: Model) -> Iterator[RequestProblem]:
    """Yield the problem of a GGUF file that cannot be written. The engine, which reads the tokenizer, finds more."""
    architecture = model.facts.get("architecture")
    supported = {*GGUF_ARCHITECTURES, *GGUF_ARCHITECTURES.values()}  # a folder's class, or a GGUF file's own name
    if spec.export.gguf != "none" and architecture is not None and architecture not in supported:
        detail = f"{architecture} cannot be written as GGUF, only {', '.join(GGUF_ARCHITECTURES)}; set it to 'none'"
        yield RequestProblem("/spec/export/gguf", detail)


def find_deadline_problems(body: JobCreate) -> Iterator[RequestProblem]:
    """Yield the problem of a deadline that has passed, or that is too far to be meant."""
    if body.deadline is None:
        return
    now = datetime.now(UTC)
    if body.deadline <= now:
        yield RequestProblem("/deadline", "the deadline has passed; send a later one, or null for none")
    elif body.deadline > now + MAX_DEADLINE:
        yield RequestProblem(
            "/deadline", f"the deadline is more than {MAX_DEADLINE.days} days away; send an earlier one"
        )


def find_equal_sets(spec: JobSpec, sets: Mapping[str, Dataset]) -> Iterator[RequestProblem]:
    """Yield the sets to unlearn that equal the retain set. The engine, which reads the rows, finds more."""
    retain = sets.get(RETAIN)
    for name, row in sets.items():
        if retain is not None and spec.unlearns(name) and row.content_sha256 == retain.content_sha256:
            detail = f"the {name} set and the retain set are the same: the job would unlearn what it retains"
            yield RequestProblem("/datasets/retain", detail)
