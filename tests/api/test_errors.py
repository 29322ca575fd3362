"""Every error is a problem document, and a key's scopes limit what it can do."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text, update
from sqlalchemy.exc import TimeoutError as NoFreeConnection
from sqlalchemy.orm import Session

from api.errors import ErrorCode
from api.middleware import MAX_JSON_BYTES
from api.services import methods
from soul_store.settings import get_settings
from soul_store.tables import ApiKey
from tests.api.conftest import ApiClient, problem
from tests.paths import ROOT


def test_the_reference_lists_every_code_with_its_status() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| .+ \| .+ \|$", page, flags=re.MULTILINE)

    assert rows == [(code.value, str(code.status)) for code in ErrorCode]


def test_every_code_is_used() -> None:
    sources = [path.read_text() for path in (ROOT / "api").rglob("*.py")]

    assert [code for code in ErrorCode if not any(f"ErrorCode.{code.name}" in source for source in sources)] == []


def test_an_unknown_path_is_a_problem(http: TestClient) -> None:
    problem(http.get("/nowhere"), 404, "not_found")


def test_a_wrong_method_gives_the_allowed_ones(http: TestClient) -> None:
    answer = http.delete("/v1/me")

    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/jobs", "GET, POST"),
        ("PATCH", "/v1/datasets/ds_x", "DELETE, GET"),
        ("POST", "/v1/artifacts/art_x/content", "GET, HEAD"),
    ],
)
def test_the_allow_header_names_every_method_of_a_path(http: TestClient, method: str, path: str, allowed: str) -> None:
    answer = http.request(method, path)

    problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


@pytest.mark.parametrize("path", ["/v1/jobs/job_%00", "/v1/jobs?cursor=%00", "/v1/datasets/%00", "/v1/models/%00"])
def test_a_nul_in_the_url_is_a_problem_of_the_request(admin: ApiClient, path: str) -> None:
    problem(admin("GET", path), 422, "unstorable_value")


def test_a_nul_in_the_body_is_a_problem_of_the_request(admin: ApiClient) -> None:
    problem(admin("POST", "/v1/datasets", json={"name": "a\0b"}), 422, "invalid_request")
    row = {"name": "set", "mapping": {"prompt": "a\0b"}}
    problem(admin("POST", "/v1/datasets", json=row), 422, "unstorable_value")


def test_an_unavailable_database_is_503_without_its_address(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_DATABASE_URL", "postgresql+psycopg://secret-user@/soul?host=/nowhere")
    get_settings.cache_clear()

    answer = http.get("/v1/me", headers={"Authorization": f"Bearer soul_abcdefgh_{'x' * 43}"})

    problem(answer, 503, "database_unavailable")
    assert answer.headers["retry-after"] == "2"
    assert "secret-user" not in answer.text


def test_a_pool_with_no_free_connection_is_503(admin: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_timeout() -> None:
        raise NoFreeConnection("QueuePool limit of size 10 overflow 20 reached")

    monkeypatch.setattr(methods, "list_methods", raise_timeout)  # the fault

    problem(admin("GET", "/v1/methods"), 503, "database_unavailable")


def test_every_unknown_key_has_a_pointer(admin: ApiClient) -> None:
    body = problem(admin("POST", "/v1/datasets", json={"name": "x", "nmae": 1, "a/b": 2}), 422, "invalid_request")

    assert [error["pointer"] for error in body["errors"]] == ["/nmae", "/a~1b"]
    assert "did you mean 'name'?" in body["errors"][0]["detail"]
    assert body["detail"] == "the request has 2 problems: see 'errors'"


def test_a_boolean_is_not_a_number(admin: ApiClient, job_body: dict[str, Any]) -> None:
    wrong = {"training": {"steps": True}, "optimizer": {"kind": "adamw", "lr": False}}

    body = problem(admin("POST", "/v1/jobs", json={**job_body, "spec": wrong}), 422, "invalid_request")

    assert {error["pointer"] for error in body["errors"]} == {"/spec/training/steps", "/spec/optimizer/lr"}


def test_a_body_that_is_not_json_has_its_own_code(admin: ApiClient) -> None:
    problem(admin("POST", "/v1/jobs", content=b"{oops", headers={"content-type": "application/json"}), 400, "bad_json")


def test_a_large_body_is_refused_by_its_announced_length(admin: ApiClient) -> None:
    answer = admin("POST", "/v1/jobs", content=b" " * (MAX_JSON_BYTES + 1))

    problem(answer, 413, "too_large")


def test_a_crash_reveals_only_the_request_id(admin: ApiClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setattr(methods, "list_methods", crash)  # the fault

    answer = admin("GET", "/v1/methods")

    body = problem(answer, 500, "internal_error")
    assert "secret detail" not in answer.text
    assert body["request_id"] in body["detail"]


@pytest.mark.parametrize(
    "header", [None, "Basic abc", "Bearer ", "Bearer soul_short", f"Bearer soul_abcdefgh_{'x' * 43}"]
)
def test_without_a_valid_key_a_request_is_unauthorized(http: TestClient, header: str | None) -> None:
    answer = http.get("/v1/me", headers={"Authorization": header} if header else {})

    problem(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_key_with_one_wrong_character_is_refused(admin: ApiClient) -> None:
    wrong = admin.key[:-1] + ("A" if admin.key[-1] != "A" else "B")

    problem(ApiClient(admin.http, wrong)("GET", "/v1/me"), 401, "unauthorized")


def test_the_secret_is_stored_as_a_hash_only(admin: ApiClient, session: Session) -> None:
    secret = admin.key.split("_", 2)[2]
    rows = session.execute(text("SELECT row_to_json(api_keys)::text FROM api_keys")).scalars().all()

    assert rows
    assert not any(secret in row for row in rows)


def test_the_last_use_of_a_key_is_recorded(admin: ApiClient, session: Session) -> None:
    query = select(ApiKey.last_used_at)
    assert session.scalars(query).one() is None

    admin("GET", "/v1/me")

    session.rollback()
    assert session.scalars(query).one() is not None


def test_an_expired_key_is_refused(admin: ApiClient, session: Session) -> None:
    session.execute(update(ApiKey).values(expires_at=text("now() - interval '1 second'")))
    session.commit()

    problem(admin("GET", "/v1/me"), 401, "unauthorized")


def test_a_revoked_key_is_refused_at_once(admin: ApiClient) -> None:
    made = admin("POST", "/v1/api-keys", json={"name": "ci", "scopes": ["jobs:read"]}).json()
    ci = ApiClient(admin.http, made["key"])
    assert ci("GET", "/v1/me").status_code == 200

    assert admin("DELETE", f"/v1/api-keys/{made['id']}").json()["revoked_at"] is not None

    problem(ci("GET", "/v1/me"), 401, "unauthorized")


def test_a_missing_scope_is_named(http: TestClient, make_key: Callable[..., str]) -> None:
    reader = ApiClient(http, make_key("p", "jobs:read"))

    body = problem(reader.upload(b"x"), 403, "missing_scope")

    assert body["scope"] == "datasets:write"


def test_a_key_cannot_grant_a_scope_that_it_lacks(http: TestClient, make_key: Callable[..., str]) -> None:
    small = ApiClient(http, make_key("p", "keys:admin", "jobs:read"))

    problem(small("POST", "/v1/api-keys", json={"name": "x", "scopes": ["jobs:write"]}), 403, "missing_scope")


def test_keys_are_listed_without_their_secrets(admin: ApiClient) -> None:
    made = admin("POST", "/v1/api-keys", json={"name": "ci", "scopes": ["jobs:read"]}).json()

    listed = admin("GET", "/v1/api-keys").json()

    assert [key["name"] for key in listed["data"]] == ["ci", "admin"]
    assert made["key"].split("_", 2)[2] not in str(listed)


def test_an_unknown_scope_is_refused(admin: ApiClient) -> None:
    problem(admin("POST", "/v1/api-keys", json={"name": "x", "scopes": ["jobs:raed"]}), 422, "unknown_scope")


def test_the_health_pages_need_no_key(http: TestClient) -> None:
    assert http.get("/healthz").json() == {"status": "ok"}
    assert http.get("/readyz").json()["status"] == "ok"


def test_readiness_names_the_unavailable_server(http: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_REDIS_URL", "redis+socket:///nowhere/valkey.sock?virtual_host=0")
    get_settings.cache_clear()

    detail = problem(http.get("/readyz"), 503, "not_ready")["detail"]

    assert detail == "no answer from: broker"
