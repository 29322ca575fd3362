"""Rules of models: safetensors only, nothing that runs code, pinned to what they are today."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.orm import Session

from api.auth import Caller
from api.errors import ServiceError, make_not_found_error
from api.schemas.inputs import GgufModel, HubModel, JobModel, LocalModel
from api.services import jobs
from soul_core.chat.inspection import inspect_template, read_folder_template, read_gguf_template
from soul_core.errors import BadModel
from soul_core.models.files import ModelInspection, inspect_model, is_gguf
from soul_core.models.gguf_header import read_gguf_header
from soul_core.report import Verdict
from soul_store import models
from soul_store.retrained_models import find_checkpoint
from soul_store.settings import get_settings
from soul_store.tables import Model


def create(session: Session, caller: Caller, body: HubModel | LocalModel | GgufModel | JobModel) -> Model:
    """Inspect what was named and write it down. Raises 422 saying what is wrong with it."""
    if isinstance(body, HubModel):
        pinned = _from_hub(body)
    elif isinstance(body, JobModel):
        pinned = _from_job(session, caller, body)
    else:
        pinned = _from_disk(body)
    name = body.name or Path(body.location).name
    return models.insert(
        session, tenant_id=caller.tenant_id, actor=caller.key_id, name=name, source=body.source, **pinned
    )


def get_owned(session: Session, caller: Caller, model_id: str, pointer: str | None = None) -> Model:
    """Return the caller's model."""
    row = models.get(session, caller.tenant_id, model_id)
    if row is None:
        raise make_not_found_error(f"model {model_id}", pointer)
    return row


def _from_disk(wanted: LocalModel | GgufModel) -> dict[str, Any]:
    path = _allowed_path(wanted.location)
    if wanted.source == "local" and not path.is_dir():
        raise _unusable(f"{wanted.location} is no folder; a GGUF file has the source 'gguf'")
    if wanted.source == "gguf" and not (path.is_file() and is_gguf(path)):
        raise _unusable(f"{wanted.location} is not a GGUF file")
    try:
        found = inspect_model(path)
        chat = _chat_facts(path)
    except BadModel as error:
        raise _unusable(error.message, error.details) from error
    return {"location": str(path), "digest": found.digest, "facts": _facts(found) | chat}


def _chat_facts(path: Path) -> dict[str, Any]:
    """Return what the model's chat template does. Raises BadModel for one that cannot be followed."""
    found = read_gguf_template(read_gguf_header(path).metadata) if path.is_file() else read_folder_template(path)
    return {"chat": None if found is None else asdict(inspect_template(*found))}


def _allowed_path(location: str) -> Path:
    """Resolve a path and hold it below the roots the operator allows; what lies elsewhere is not there."""
    roots = [Path(root).resolve() for root in get_settings().model_roots.split(os.pathsep) if root]
    if not roots:
        raise ServiceError(
            403,
            "local_models_disabled",
            "this service reads no models from its own disk (SOUL_MODEL_ROOTS is empty); "
            "use a hub id or a job's output",
        )
    path = Path(location)
    if not path.is_absolute() or "\0" in location:
        raise _unusable(f"{location!r} is not an absolute path")
    path = path.resolve()
    if not any(path.is_relative_to(root) for root in roots) or not path.exists():
        raise _unusable(f"there is no model at {location}, or it lies outside the folders this service may read")
    return path


def _from_job(session: Session, caller: Caller, wanted: JobModel) -> dict[str, Any]:
    job = jobs.get_owned(session, caller, wanted.location)
    if job.status != "succeeded":
        raise ServiceError(409, "job_not_finished", f"job {job.id} is {job.status} and has made no model")
    if job.verdict != Verdict.PASSED:
        caller.require("models:download_unverified")
    made = find_checkpoint(session, job)
    if made is None:
        raise ServiceError(
            409,
            "no_checkpoint",
            f"job {job.id} ({job.kind}) has made no whole checkpoint: an evaluation changes no model, and "
            "'lora.output': 'adapter' leaves the adapter alone; run it again with 'merged' to build on it",
        )
    return made


def _from_hub(wanted: HubModel) -> dict[str, Any]:
    """Pin a hub id to a commit; the files are judged when a worker has them."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        info = HfApi().model_info(wanted.location, revision=wanted.revision, timeout=10)
    except RepositoryNotFoundError as error:
        raise _unusable(f"the hub has no model {wanted.location}, or it is private") from error
    except HfHubHTTPError as error:
        raise ServiceError(
            502, "hub_error", f"the hub does not give {wanted.location}: {type(error).__name__}"
        ) from error
    except (OfflineModeIsEnabled, HTTPError, OSError) as error:
        raise ServiceError(
            503,
            "hub_unreachable",
            f"the hub cannot be reached from this server, so {wanted.location} cannot be pinned to a commit; "
            "register a local folder or a GGUF file instead",
        ) from error
    files = {sibling.rfilename for sibling in info.siblings or []}
    if not any(name.endswith(".safetensors") for name in files):
        raise _unusable(f"{wanted.location} has no safetensors weights; other formats may run code and are not loaded")
    return {"location": wanted.location, "revision": info.sha, "digest": info.sha, "facts": {}}


def _facts(found: ModelInspection) -> dict[str, Any]:
    return {name: value for name, value in asdict(found).items() if name not in {"files", "digest"}}


def _unusable(detail: str, details: tuple[str, ...] = ()) -> ServiceError:
    return ServiceError(422, "unusable_model", detail, errors=[("/location", each) for each in details or (detail,)])
