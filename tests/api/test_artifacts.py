"""The files that a job made: who may download them, and how."""

import base64
import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.main import create_app
from soul_store.blobs import BlobStoreConfigError
from soul_store.settings import get_settings
from soul_store.tables import AuditEntry
from tests.api.conftest import WEIGHTS, ApiClient, Finish, problem
from tests.object_store import ObjectServer


def artifact(caller: ApiClient, job_id: str, path: str) -> str:
    listed = caller("GET", f"/v1/jobs/{job_id}/artifacts").json()["data"]
    return next(f"/v1/artifacts/{made['id']}/content" for made in listed if made["path"] == path)


def test_a_download_has_the_digest_of_the_file(admin: ApiClient, finish: Finish) -> None:
    answer = admin("GET", artifact(admin, finish("passed"), "checkpoint/model.safetensors"))

    sha256 = hashlib.sha256(WEIGHTS)
    assert answer.content == WEIGHTS
    assert answer.headers["etag"] == f'"{sha256.hexdigest()}"'
    assert answer.headers["repr-digest"] == f"sha-256=:{base64.b64encode(sha256.digest()).decode()}:"
    assert 'filename="model.safetensors"' in answer.headers["content-disposition"]


def test_head_returns_size_and_digest_without_the_file(admin: ApiClient, finish: Finish) -> None:
    answer = admin("HEAD", artifact(admin, finish("passed"), "checkpoint/model.safetensors"))

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(WEIGHTS))
    assert answer.headers["accept-ranges"] == "bytes"


def test_an_interrupted_download_resumes_by_range(admin: ApiClient, finish: Finish) -> None:
    path = artifact(admin, finish("passed"), "checkpoint/model.safetensors")
    etag = admin("HEAD", path).headers["etag"]

    tail = admin("GET", path, headers={"Range": "bytes=2999990-", "If-Range": etag})
    changed = admin("GET", path, headers={"Range": "bytes=2999990-", "If-Range": '"another"'})

    assert (tail.status_code, tail.content) == (206, WEIGHTS[-10:])
    assert tail.headers["content-range"] == "bytes 2999990-2999999/3000000"
    assert (changed.status_code, len(changed.content)) == (200, len(WEIGHTS))


def test_a_range_beyond_the_file_is_refused(admin: ApiClient, finish: Finish) -> None:
    path = artifact(admin, finish("passed"), "checkpoint/model.safetensors")

    beyond = admin("GET", path, headers={"Range": "bytes=9000000-"})
    changed = admin("GET", path, headers={"Range": "bytes=9000000-", "If-Range": '"another"'})

    problem(beyond, 416, "no_such_range")
    assert beyond.headers["content-range"] == "bytes */3000000"
    assert (changed.status_code, len(changed.content)) == (200, len(WEIGHTS))


@pytest.mark.parametrize("wanted", ["bytes=oops", "items=0-1", "bytes=9-3", "bytes=-"])
def test_a_malformed_range_is_ignored(admin: ApiClient, finish: Finish, wanted: str) -> None:
    path = artifact(admin, finish("passed"), "checkpoint/model.safetensors")

    answer = admin("GET", path, headers={"Range": wanted})

    assert (answer.status_code, answer.content) == (200, WEIGHTS)


def test_a_file_that_the_client_has_is_not_sent_again(admin: ApiClient, finish: Finish) -> None:
    path = artifact(admin, finish("passed"), "report.json")
    etag = admin("HEAD", path).headers["etag"]

    for known in (etag, f"W/{etag}", f'"another", {etag}', "*"):
        assert admin("GET", path, headers={"If-None-Match": known}).status_code == 304
    assert admin("GET", path, headers={"If-None-Match": '"another"'}).status_code == 200


def test_another_projects_file_is_not_found(admin: ApiClient, other_tenant: ApiClient, finish: Finish) -> None:
    problem(other_tenant("GET", artifact(admin, finish("passed"), "report.json")), 404, "not_found")


@pytest.mark.parametrize(
    ("verdict", "path"),
    [
        ("failed", "checkpoint/model.safetensors"),
        ("inconclusive", "checkpoint/model.safetensors"),
        ("failed", "adapter/adapter_model.safetensors"),
    ],
)
def test_unverified_weights_need_a_scope_and_leave_an_audit_entry(
    verdict: str,
    path: str,
    http: TestClient,
    admin: ApiClient,
    make_key: Callable[..., str],
    finish: Finish,
    session: Session,
) -> None:
    job_id = finish(verdict)
    weights, report, log = (artifact(admin, job_id, name) for name in (path, "report.json", "logs/unlearned.json"))
    plain = ApiClient(http, make_key("default", "jobs:read", "models:download"))
    trusted = ApiClient(http, make_key("default", "jobs:read", "models:download_unverified"))

    problem(plain("GET", weights), 403, "unverified_model")
    assert plain("GET", report).status_code == plain("GET", log).status_code == 200
    assert trusted("GET", weights).status_code == 200

    entry = session.scalars(select(AuditEntry).where(AuditEntry.action == "artifact.download_unverified")).one()
    assert entry.data["verdict"] == verdict


def test_the_checkpoint_of_a_passed_job_can_be_registered(admin: ApiClient, finish: Finish) -> None:
    job_id = finish("passed")

    made = admin("POST", "/v1/models", json={"source": "job", "location": job_id})

    assert made.status_code == 201, made.text
    assert made.json()["parent_job_id"] == job_id
    assert made.json()["location"] == f"jobs/{job_id}/1/checkpoint"


def test_a_checkpoint_with_its_own_chat_template_has_no_base_facts(
    admin: ApiClient, finish: Finish, job_body: dict[str, Any]
) -> None:
    base_facts = admin("POST", "/v1/models", json={"source": "job", "location": finish("passed")}).json()["facts"]
    job_body["spec"]["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"

    own = admin("POST", "/v1/models", json={"source": "job", "location": finish("passed")}).json()["facts"]

    assert "chat" in base_facts
    assert own == {name: value for name, value in base_facts.items() if name != "chat"}


def test_a_service_without_a_bucket_gives_no_download_url(admin: ApiClient, finish: Finish) -> None:
    path = artifact(admin, finish("passed"), "checkpoint/model.safetensors")

    answer = problem(admin("GET", path.replace("/content", "/download-url")), 409, "no_download_url")

    assert path in answer["detail"]


def test_the_api_does_not_start_with_a_bucket_that_does_not_exist(
    admin: ApiClient, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOUL_BLOBS_URL", object_server.make_url("p", bucket="no-such-bucket"))
    get_settings.cache_clear()

    with pytest.raises(BlobStoreConfigError, match="create it"), TestClient(create_app()):
        pass
