"""Bodies that no user writes by hand: each gets a clear error soon, and none a 500."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from soul_core.spec import JobSpec
from tests.api.conftest import ApiClient

DEEP = "[" * 50_000 + "]" * 50_000


def send(client: ApiClient, content: str, path: str = "/v1/jobs") -> Any:
    return client("POST", path, content=content.encode(), headers={"Content-Type": "application/json"})


@pytest.mark.parametrize("half", [r"\ud800", r"\udc00", r"\ud83d\ud83d", r"\udc00\ud800", r"x\ud800\\udc00"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/models", "/v1/datasets", "/v1/api-keys", "/v1/estimates"])
def test_half_a_surrogate_pair_is_refused_everywhere(admin: ApiClient, path: str, half: str) -> None:
    response = send(admin, f'{{"name": "{half}"}}', path)

    assert (response.status_code, response.json()["code"]) == (400, "bad_json")
    assert "half of a surrogate pair" in response.json()["detail"]


@pytest.mark.parametrize("name", [r"\ud83d\ude00", r"\\ud800", "é", "日本"])
def test_every_real_character_is_accepted(admin: ApiClient, name: str) -> None:
    response = send(admin, f'{{"name": "{name}", "scopes": ["jobs:read"]}}', "/v1/api-keys")

    assert (response.status_code, response.json()["name"]) == (201, json.loads(f'"{name}"'))


@pytest.mark.parametrize("content", [DEEP, '{"spec": ' + '{"a": ' * 500 + "1" + "}" * 501])
def test_deep_nesting_is_refused(admin: ApiClient, content: str) -> None:
    response = send(admin, content)

    assert (response.status_code, response.json()["code"]) == (400, "bad_json")
    assert "nests deeper than 64 levels" in response.json()["detail"]


@pytest.mark.parametrize(
    "spec",
    [
        {"evaluation": {"metrics": [f"probabilitz_{n}" for n in range(90_000)]}},
        {"attacks": [{"kind": "relearm"}] * 80_000},
        {"criteria": [{"metric": "x" * 30}] * 60_000},
        {f"unknown_{n}": n for n in range(90_000)},
        {"strategy": {"kind": "ensemble", "members": [{f"lr_{n}": 1 for n in range(90_000)}, {}]}},
        {"optimizer": {"kind": "x" * 2_000_000}},
    ],
    ids=["metrics", "attacks", "criteria", "keys", "members", "long"],
)
def test_a_huge_spec_gets_a_short_answer_soon(admin: ApiClient, job_body: dict[str, Any], spec: dict[str, Any]) -> None:
    content = json.dumps({**job_body, "spec": spec})
    started = time.process_time()

    response = send(admin, content)

    assert response.status_code == 422
    assert len(response.content) < 60_000
    assert len(response.json()["errors"]) <= 100
    assert time.process_time() - started < 3


@pytest.mark.parametrize("content", [b'{"name": "' + b'\\"' * 500_000, b'"' * 999_999, b'{"a": "' + b"x" * 3_000_000])
def test_a_string_that_does_not_end_costs_little(admin: ApiClient, content: bytes) -> None:
    started = time.process_time()

    response = admin("POST", "/v1/jobs", content=content, headers={"Content-Type": "application/json"})

    assert response.status_code in {400, 422}
    assert time.process_time() - started < 2


@pytest.mark.parametrize("content", [b'{"\xed\xa0\x80": 1}', b'{"name": "\xff"}', '{"name": "a"}'.encode("utf-16")])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets", "/v1/api-keys"])
def test_a_body_in_another_encoding_is_refused(admin: ApiClient, path: str, content: bytes) -> None:
    response = admin("POST", path, content=content, headers={"Content-Type": "application/json"})

    assert (response.status_code, response.json()["code"]) == (400, "bad_json")


@pytest.mark.parametrize("number", [10**400, 2**63, -(10**30)])
@pytest.mark.parametrize("field", ["micro_batch_tokens", "max_tokens", "steps", "forget_batch"])
def test_a_huge_number_is_refused(admin: ApiClient, job_body: dict[str, Any], field: str, number: int) -> None:
    response = admin("POST", "/v1/estimates", json={**job_body, "spec": {"training": {field: number}}})

    assert response.status_code == 422, response.text


def test_a_path_with_a_name_that_is_too_long_is_refused(admin: ApiClient, model_folder: Path) -> None:
    location = str(model_folder / ("a" * 300))

    response = admin("POST", "/v1/models", json={"source": "local", "location": location})

    assert (response.status_code, response.json()["code"]) == (422, "unusable_model")


def test_more_items_than_any_spec_has_are_refused(admin: ApiClient) -> None:
    assert send(admin, json.dumps({"x": list(range(200_000))})).json()["code"] == "too_large"


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "\x1b[31mred", "a\u202eb", "a\x00b", "\x9b31m", "a\u2028b"])
@pytest.mark.parametrize("path", ["/v1/jobs", "/v1/datasets", "/v1/api-keys"])
def test_a_name_with_a_control_character_is_refused(
    admin: ApiClient, job_body: dict[str, Any], path: str, name: str
) -> None:
    bodies = {"/v1/jobs": job_body, "/v1/datasets": {}, "/v1/api-keys": {"scopes": ["jobs:read"]}}

    response = admin("POST", path, json={**bodies[path], "name": name})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/name"


@pytest.mark.parametrize("location", ["a/b/c", "-x/y", "x/-y", "a" * 97, "../x", "a/b.", "ä/b", "a b/c"])
def test_a_malformed_hub_id_is_refused_without_asking_the_hub(admin: ApiClient, location: str) -> None:
    response = admin("POST", "/v1/models", json={"source": "hub", "location": location})

    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "/location"


@pytest.mark.parametrize("value", [{}, [], 0, None, True, "", "x", {"kind": {}}, {"kind": []}, [{}]])
@pytest.mark.parametrize("field", list(JobSpec.model_fields))
def test_a_value_of_a_wrong_type_in_a_spec_is_never_a_crash(
    admin: ApiClient, job_body: dict[str, Any], field: str, value: Any
) -> None:
    response = admin("POST", "/v1/estimates", json={**job_body, "spec": {field: value}})

    assert response.status_code in {200, 422}, response.text
