"""Rules of models: only safetensors and GGUF, no code, pinned to their current content."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from api.auth import Caller
from api.errors import ErrorCode, RequestProblem, ServiceError, make_not_found_error
from api.schemas.models import GgufModel, HubModel, JobModel, LocalModel
from api.services import jobs
from soul_core.chat.inspection import inspect_template, read_folder_template, read_gguf_template
from soul_core.errors import BadModel
from soul_core.models.files import inspect_model, is_gguf
from soul_core.models.gguf_header import read_gguf_header
from soul_core.report import Verdict
from soul_store import models
from soul_store.database import Session
from soul_store.job_status import JobStatus
from soul_store.retrained_models import find_checkpoint
from soul_store.settings import get_settings
from soul_store.tables import Model


def create(session: Session, caller: Caller, body: HubModel | LocalModel | GgufModel | JobModel) -> Model:
    """Inspect a model and register it. Raises 422 with the problems of its files."""
    if isinstance(body, HubModel):
        identity = _pin_hub_model(body)
    elif isinstance(body, JobModel):
        identity = _find_job_checkpoint(session, caller, body)
    else:
        identity = _inspect_files(body)
    name = body.name or Path(body.location).name
    return models.insert(
        session, tenant_id=caller.tenant_id, actor=caller.key_id, name=name, source=body.source, **identity
    )


def get_owned(session: Session, caller: Caller, model_id: str) -> Model:
    """Return the caller's model. Raises 404."""
    row = models.get(session, caller.tenant_id, model_id)
    if row is None:
        raise make_not_found_error(f"model {model_id}")
    return row


def list_page(session: Session, caller: Caller, *, limit: int, before: str | None) -> list[Model]:
    """Return the caller's models, newest first, at most `limit`, older than the id `before`."""
    return models.list_page(session, caller.tenant_id, limit=limit, before=before)


def delete(session: Session, caller: Caller, model_id: str) -> None:
    """Delete the registration of a model of the caller; its files are not touched."""
    models.delete(session, get_owned(session, caller, model_id), caller.key_id)


def _inspect_files(body: LocalModel | GgufModel) -> dict[str, Any]:
    path = _resolve_allowed_path(body.location)
    if body.source == "local" and not path.is_dir():
        raise _make_unusable_error(f"{body.location} is not a folder; a GGUF file has the source 'gguf'")
    if body.source == "gguf" and not (path.is_file() and is_gguf(path)):
        raise _make_unusable_error(f"{body.location} is not a GGUF file")
    try:
        inspection = inspect_model(path)
        template = read_gguf_template(read_gguf_header(path).metadata) if path.is_file() else read_folder_template(path)
        chat = None if template is None else asdict(inspect_template(*template))
    except BadModel as error:
        raise _make_unusable_error(error.message, error.details) from error
    facts = {name: value for name, value in asdict(inspection).items() if name not in {"files", "digest"}}
    return {"location": str(path), "digest": inspection.digest, "facts": {**facts, "chat": chat}}


def _resolve_allowed_path(location: str) -> Path:
    """Return the resolved path. One outside the operator's folders gives the same error as one that does not exist."""
    roots = [Path(root).resolve() for root in get_settings().model_roots.split(os.pathsep) if root]
    if not roots:
        detail = (
            "this service reads no models from its own disk (SOUL_MODEL_ROOTS is empty); use a hub id or a job's output"
        )
        raise ServiceError(ErrorCode.LOCAL_MODELS_DISABLED, detail)
    path = Path(location)
    if not path.is_absolute() or "\0" in location:
        raise _make_unusable_error(f"{location!r} is not an absolute path")
    try:
        path = path.resolve()
        exists = path.exists()
    except OSError:  # a name that is too long, a circle of links
        exists = False
    is_allowed = any(path.is_relative_to(root) for root in roots) and not _is_private(path)
    if not is_allowed or not exists:
        raise _make_unusable_error(
            f"there is no model at {location}, or it is outside the folders that this service may read; the operator "
            "allows a folder by SOUL_MODEL_ROOTS or `soul serve --model-root FOLDER`"
        )
    for file in path.rglob("*") if path.is_dir() else ():
        target = file.resolve()
        if not any(target.is_relative_to(root) for root in roots) or _is_private(target):
            raise _make_unusable_error(
                f"{file.relative_to(path)} is a link that leaves the folders that this service may read; copy the file"
            )
    return path


def _is_private(path: Path) -> bool:
    """Return whether a path belongs to the service itself: its files, which other projects own, and its scratch."""
    settings = get_settings()
    own = [settings.scratch_dir]
    if settings.blobs_url.startswith("file://"):
        own.append(Path(settings.blobs_url.removeprefix("file://")))
    return any(path.is_relative_to(folder.resolve()) for folder in own)


def _find_job_checkpoint(session: Session, caller: Caller, body: JobModel) -> dict[str, Any]:
    job = jobs.get_owned(session, caller, body.location)
    if job.status != JobStatus.SUCCEEDED:
        raise ServiceError(ErrorCode.JOB_NOT_FINISHED, f"job {job.id} is {job.status} and has made no model")
    if job.verdict != Verdict.PASSED:
        caller.require("models:download_unverified")
    checkpoint = find_checkpoint(session, job)
    if checkpoint is None:
        detail = (
            f"job {job.id} ({job.kind}) has made no complete checkpoint: an evaluation changes no model, and "
            "'lora.output': 'adapter' writes the adapter only; run it again with 'merged' to build on it"
        )
        raise ServiceError(ErrorCode.NO_CHECKPOINT, detail)
    return checkpoint


def _pin_hub_model(body: HubModel) -> dict[str, Any]:
    """Pin a hub id to a commit; a worker checks the files when it has downloaded them."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        info = HfApi().model_info(body.location, revision=body.revision, timeout=10)
    except HFValidationError as error:
        raise _make_unusable_error(f"{body.location} is not an id of the hub: {error}") from error
    except RevisionNotFoundError as error:
        raise _make_unusable_error(f"{body.location} has no revision {body.revision}") from error
    except RepositoryNotFoundError as error:
        raise _make_unusable_error(f"the hub has no model {body.location}, or it is private") from error
    except HfHubHTTPError as error:
        detail = f"the hub does not provide {body.location}: {type(error).__name__}"
        raise ServiceError(ErrorCode.HUB_ERROR, detail) from error
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        detail = (
            f"this server cannot reach the hub, so {body.location} cannot be pinned to a commit; register a local "
            "folder or a GGUF file instead"
        )
        raise ServiceError(ErrorCode.HUB_UNREACHABLE, detail) from error
    files = {sibling.rfilename for sibling in info.siblings or []}
    if not any(name.endswith(".safetensors") for name in files):
        raise _make_unusable_error(
            f"{body.location} has no safetensors weights; other formats may run code and are not loaded"
        )
    return {"location": body.location, "revision": info.sha, "digest": info.sha, "facts": {}}


def _make_unusable_error(detail: str, details: tuple[str, ...] = ()) -> ServiceError:
    problems = [RequestProblem("/location", text) for text in details or (detail,)]
    return ServiceError(ErrorCode.UNUSABLE_MODEL, detail, problems=problems)
