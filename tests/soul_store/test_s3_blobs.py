"""What only a bucket does: presigned URLs, checksums, credentials, and a check that names the remedy."""

import filecmp
import os
import resource
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import obstore
import pytest
from obstore.store import S3Store

from soul_store.blobs import BlobStoreConfigError, BlobStoreUnavailable, DamagedBlobError, S3Blobs
from soul_store.blobs.s3_location import S3Location
from tests.fixtures.blobs import put_bytes
from tests.object_store import ACCESS_KEY, SECRET_KEY, ObjectServer


@pytest.fixture
def store(make_s3_store: Callable[[], S3Blobs]) -> S3Blobs:
    return make_s3_store()


def open_store(url: str, *, allow_http: bool = False) -> S3Blobs:
    return S3Blobs(S3Location.parse(url, allow_http=allow_http))


def test_a_file_of_many_parts_is_stored_and_fetched_in_bounded_memory(store: S3Blobs, tmp_path: Path) -> None:
    source = tmp_path / "weights"
    with source.open("wb") as file:
        for index in range(160):
            file.write(os.urandom(1 << 20) + bytes([index]))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    stored = store.put_file("weights", source)
    store.fetch("weights", tmp_path / "fetched")

    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before

    assert grown < 100 << 10
    assert filecmp.cmp(source, tmp_path / "fetched", shallow=False)
    assert store.get_remote_sha256("weights") == stored.sha256


def test_a_blob_that_differs_from_its_sha256_is_not_fetched(
    store: S3Blobs, object_server: ObjectServer, tmp_path: Path
) -> None:
    raw = S3Store(
        object_server.bucket,
        prefix=store.location.prefix,
        endpoint=object_server.endpoint,
        region="us-east-1",
        client_options={"allow_http": True},
    )
    obstore.put(raw, "a", b"changed", attributes={"sha256": "0" * 64})  # the fault

    with pytest.raises(DamagedBlobError, match="restore the file"):
        store.fetch("a", tmp_path / "a")

    assert list(tmp_path.iterdir()) == []


def test_a_download_url_serves_ranges_under_the_files_name_without_credentials(store: S3Blobs) -> None:
    put_bytes(store, "jobs/1/model.safetensors", b"0123456789")

    url = store.make_download_url("jobs/1/model.safetensors", seconds=60)
    assert url is not None
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Range": "bytes=7-"})) as answer:
        assert (answer.status, answer.read()) == (206, b"789")
        assert answer.headers["Content-Disposition"] == 'attachment; filename="model.safetensors"'
        assert answer.headers["Content-Type"] == "application/octet-stream"


def test_parts_that_a_client_sent_to_upload_urls_are_read_and_removed(store: S3Blobs) -> None:
    for number, content in enumerate([b"one", b"two"]):
        url = store.make_upload_url(f"uploads/u1/{number:05d}", seconds=60)
        assert url is not None
        with urllib.request.urlopen(urllib.request.Request(url, data=content, method="PUT")):
            pass

    keys = store.list_keys("uploads/u1")
    assert b"".join(store.open(key).read() for key in keys) == b"onetwo"
    store.delete_prefix("uploads/u1")
    assert store.list_keys("uploads/u1") == []


def test_a_url_for_another_key_or_method_is_refused(store: S3Blobs) -> None:
    put_bytes(store, "mine", b"1")
    put_bytes(store, "theirs", b"2")
    url = store.make_download_url("mine", seconds=60)
    assert url is not None

    for request in (
        urllib.request.Request(url.replace("/mine?", "/theirs?")),
        urllib.request.Request(url, data=b"x", method="PUT"),
    ):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request)
        assert caught.value.code == 403
        caught.value.close()


def test_a_missing_bucket_is_named_with_its_remedy(object_server: ObjectServer) -> None:
    with pytest.raises(BlobStoreConfigError, match="'no-such-bucket': the bucket does not exist: create it"):
        open_store(object_server.make_url("p", bucket="no-such-bucket")).check()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("AWS_ACCESS_KEY_ID", "set AWS_ACCESS_KEY_ID"), ("AWS_SECRET_ACCESS_KEY", "set AWS_SECRET_ACCESS_KEY")],
)
def test_wrong_credentials_are_named_with_their_remedy(
    name: str, remedy: str, object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "wrong")

    with pytest.raises(BlobStoreConfigError, match=remedy):
        open_store(object_server.make_url("p")).check()


def test_a_server_that_does_not_answer_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, object_server: ObjectServer
) -> None:
    monkeypatch.setattr("soul_store.blobs.s3._RETRIES", {"max_retries": 0})  # the test does not wait

    with pytest.raises(BlobStoreUnavailable):
        open_store("s3://bucket/p?endpoint=http://127.0.0.1:9").check()


def test_credentials_can_be_in_a_file(
    object_server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "credentials"
    file.write_text(f"[soul]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "soul")
    for name in object_server.environment:
        monkeypatch.delenv(name)

    open_store(object_server.make_url("p")).check()

    monkeypatch.setenv("AWS_PROFILE", "another")
    with pytest.raises(BlobStoreConfigError, match=r"no readable section \[another\]"):
        open_store(object_server.make_url("p"))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("s3://", "set it to s3://bucket/prefix"),
        ("s3:///prefix", "not a blob key"),
        ("s3://bucket/../other", "not a blob key"),
        ("s3://bucket/p?endpoint=host:9000", "is not https://host"),
        ("s3://bucket/p?endpoint=http://[::1", "set it to"),
        ("s3://bucket/p?endpoint=http://host:port", "set it to"),
        ("s3://bucket/p?endpont=https://host", "unknown part 'endpont'"),
        ("s3://bucket/p?endpoint", "set it to"),
        ("s3://key:secret@bucket/p", "contains credentials"),
        ("s3://bucket/p?endpoint=http://storage.example", "SOUL_BLOBS_ALLOW_HTTP"),
        ("s3://bucket/p?endpoint=http://10.0.0.7:9000", "SOUL_BLOBS_ALLOW_HTTP"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_its_reason(url: str, reason: str) -> None:
    with pytest.raises(BlobStoreConfigError, match=reason):
        S3Location.parse(url, allow_http=False)


def test_http_outside_the_machine_needs_the_setting() -> None:
    assert S3Location.parse("s3://b/p?endpoint=http://10.0.0.7:9000", allow_http=True).allow_http
    assert not S3Location.parse("s3://b/p?endpoint=https://10.0.0.7", allow_http=True).allow_http
