"""Downloads of files that are in a bucket: by redirect, by a URL for others, or passed on."""

import hashlib
import urllib.request
from typing import Any

import pytest

from soul_store.settings import get_settings
from tests.api.conftest import WEIGHTS, ApiClient, Finish, problem
from tests.api.test_artifacts import artifact


@pytest.fixture
def blobs_url(bucket_url: str) -> str:
    return bucket_url


@pytest.fixture
def weights(admin: ApiClient, finish: Finish) -> str:
    return artifact(admin, finish("passed"), "checkpoint/model.safetensors")


@pytest.fixture
def _proxy(settings_env: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUL_BLOBS_DOWNLOAD", "proxy")
    get_settings.cache_clear()


def test_a_download_redirects_to_a_url_that_needs_no_key(admin: ApiClient, weights: str) -> None:
    answer = admin("GET", weights, follow_redirects=False)

    assert answer.status_code == 307
    assert answer.headers["cache-control"] == "private, no-store"
    with urllib.request.urlopen(answer.headers["location"]) as content:
        assert content.read() == WEIGHTS
        assert content.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'


def test_head_is_answered_without_the_bucket(admin: ApiClient, weights: str) -> None:
    answer = admin("HEAD", weights, follow_redirects=False)

    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(WEIGHTS))
    assert answer.headers["etag"] == f'"{hashlib.sha256(WEIGHTS).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"


def test_a_known_file_and_a_range_beyond_it_are_answered_before_the_redirect(admin: ApiClient, weights: str) -> None:
    etag = admin("HEAD", weights).headers["etag"]

    assert admin("GET", weights, headers={"If-None-Match": etag}, follow_redirects=False).status_code == 304
    problem(admin("GET", weights, headers={"Range": "bytes=9000000-"}, follow_redirects=False), 416, "no_such_range")


def test_a_download_url_states_its_expiry_and_the_digest(admin: ApiClient, weights: str) -> None:
    made = admin("GET", weights.replace("/content", "/download-url")).json()

    assert made["filename"] == "model.safetensors"
    assert made["expires_at"] > admin("GET", "/v1/jobs").json()["data"][0]["created_at"]
    with urllib.request.urlopen(made["url"]) as content:
        assert hashlib.sha256(content.read()).hexdigest() == made["sha256"]


def test_a_download_url_needs_the_scope_of_the_download(
    admin: ApiClient, other_tenant: ApiClient, make_key: Any, http: Any, finish: Finish
) -> None:
    path = artifact(admin, finish("failed"), "checkpoint/model.safetensors").replace("/content", "/download-url")

    problem(ApiClient(http, make_key("default", "jobs:read"))("GET", path), 403, "unverified_model")
    problem(other_tenant("GET", path), 404, "not_found")


@pytest.mark.usefixtures("_proxy")
@pytest.mark.parametrize(
    ("wanted", "expected", "content_range"),
    [
        (None, WEIGHTS, None),
        ("bytes=2999990-", WEIGHTS[-10:], "bytes 2999990-2999999/3000000"),
        ("bytes=-7", WEIGHTS[-7:], "bytes 2999993-2999999/3000000"),
        ("bytes=5-2000004", WEIGHTS[5:2000005], "bytes 5-2000004/3000000"),
        ("bytes=0-1,5-6", WEIGHTS, None),
        ("bytes=oops", WEIGHTS, None),
    ],
)
def test_a_proxied_download_honors_one_range(
    admin: ApiClient, weights: str, wanted: str | None, expected: bytes, content_range: str | None
) -> None:
    answer = admin("GET", weights, headers={"Range": wanted} if wanted else {}, follow_redirects=False)

    assert answer.status_code == (206 if content_range else 200)
    assert answer.content == expected
    assert answer.headers.get("content-range") == content_range
    assert answer.headers["content-length"] == str(len(expected))


@pytest.mark.usefixtures("_proxy")
def test_a_proxied_download_sends_a_changed_file_complete(admin: ApiClient, weights: str) -> None:
    answer = admin("GET", weights, headers={"Range": "bytes=5-", "If-Range": '"another"'}, follow_redirects=False)

    assert (answer.status_code, len(answer.content)) == (200, len(WEIGHTS))


@pytest.mark.usefixtures("_proxy")
def test_a_service_that_proxies_gives_no_download_url(admin: ApiClient, weights: str) -> None:
    problem(admin("GET", weights.replace("/content", "/download-url")), 409, "no_download_url")


def test_data_sets_and_reports_are_read_from_the_bucket(admin: ApiClient, finish: Finish) -> None:
    job_id = finish("passed")

    assert admin("GET", f"/v1/jobs/{job_id}/report").json() == {"verdict": "x"}
    dataset_id = admin("GET", "/v1/datasets").json()["data"][0]["id"]
    assert admin("GET", f"/v1/datasets/{dataset_id}/preview").status_code == 200


def test_a_bucket_that_vanishes_is_a_clear_problem(
    admin: ApiClient, finish: Finish, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id = finish("passed")
    monkeypatch.setattr("soul_store.blobs.s3._RETRIES", {"max_retries": 0})  # the test does not wait
    monkeypatch.setenv("SOUL_BLOBS_URL", "s3://bucket/p?endpoint=http://127.0.0.1:9")
    get_settings.cache_clear()

    answer = admin("GET", f"/v1/jobs/{job_id}/report")

    problem(answer, 503, "storage_unavailable")
    assert answer.headers["retry-after"] == "5"
