"""Downloads resume where they broke, are checked against the manifest, and stay below the folder."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from soul_cli.download import DownloadedFile, fetch, fetch_all
from soul_cli.errors import BadInput, CliExitCode, DamagedDownload, ServerUnreachable
from soul_cli.resources import Artifact
from soul_cli.transport import Transport
from tests.soul_cli.faulty import Request, serving

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def make_artifact(path: str = "model.safetensors", content: bytes = CONTENT) -> Artifact:
    return Artifact(id="art_1", path=path, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def redirect(request: Request, url: str) -> None:
    request.answer(307, Location=f"{url}/bucket/model?signature=1")


def download(url: str, artifact: Artifact, target: Path, *, key: str | None = None, **options: Any) -> DownloadedFile:
    transport = Transport(url, key, max_tries=3, sleep=lambda _seconds: None)
    try:
        return fetch(transport, artifact, target, **options)
    finally:
        transport.close()


def serve_ranges(request: Request, content: bytes = CONTENT, *, cut_after: int | None = None) -> None:
    """Answer as the service does, and optionally cut the connection after some bytes."""
    start, total = 0, len(content)
    requested = request.headers.get("Range")
    if requested and request.headers.get("If-Range") == f'"{hashlib.sha256(content).hexdigest()}"':
        start = int(requested.removeprefix("bytes=").rstrip("-"))
    rest = content[start:]
    if start:
        request.begin(206, Content_Length=str(len(rest)), Content_Range=f"bytes {start}-{total - 1}/{total}")
    else:
        request.begin(200, Content_Length=str(len(rest)))
    if cut_after is not None and len(rest) > cut_after:
        request.wfile.write(rest[:cut_after])
        request.cut()
    else:
        request.wfile.write(rest)


def test_a_download_that_breaks_repeatedly_resumes_where_it_broke(tmp_path: Path) -> None:
    sizes: list[int] = []
    with serving(lambda request: serve_ranges(request, cut_after=300_000)) as script:
        file = download(
            script.url, make_artifact(), tmp_path / "m", on_progress=lambda _artifact, size: sizes.append(size)
        )
        ranges = [headers.get("Range") for _, _, headers in script.seen]
    assert (tmp_path / "m").read_bytes() == CONTENT
    assert ranges == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    assert file.how == "downloaded"
    assert sizes == sorted(sizes)
    assert sizes[-1] == len(CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_second_run_resumes_the_partial_file_of_the_first(tmp_path: Path) -> None:
    def fail_after_the_first(request: Request) -> None:
        if request.server.script.num_requests > 1:
            request.cut()
        else:
            serve_ranges(request, cut_after=400_000)

    with serving(fail_after_the_first) as script, pytest.raises(ServerUnreachable):
        download(script.url, make_artifact(), tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with serving(serve_ranges) as script:
        file = download(script.url, make_artifact(), tmp_path / "m")
        assert script.seen[0][2]["Range"] == "bytes=400000-"
    assert (file.how, file.resumed_at_bytes) == ("resumed", 400_000)
    assert (tmp_path / "m").read_bytes() == CONTENT


def test_a_partial_file_of_another_version_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / f"m.{'0' * 12}.part").write_bytes(b"something else")
    with serving(serve_ranges) as script:
        assert download(script.url, make_artifact(), tmp_path / "m").how == "downloaded"
        assert "Range" not in script.seen[0][2]


def test_a_damaged_partial_file_is_downloaded_again_from_the_first_byte(tmp_path: Path) -> None:
    (tmp_path / f"m.{SHA256[:12]}.part").write_bytes(b"\0" * 1000)
    with serving(serve_ranges) as script:
        assert download(script.url, make_artifact(), tmp_path / "m").how == "downloaded"
        assert [headers.get("Range") for _, _, headers in script.seen] == ["bytes=1000-", None]
    assert (tmp_path / "m").read_bytes() == CONTENT


def test_a_redirect_to_a_bucket_is_resumed_there_without_the_api_key(tmp_path: Path) -> None:
    def serve_bucket(request: Request) -> None:
        """Answer as S3 does: any Range, but no If-Range that is not its own ETag."""
        start = int((request.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
        if request.headers.get("If-Range"):
            start = 0
        total = len(CONTENT)
        if start:
            request.begin(206, Content_Length=str(total - start), Content_Range=f"bytes {start}-{total - 1}/{total}")
        else:
            request.begin(200, Content_Length=str(total))
        request.wfile.write(CONTENT[start : start + 400_000])
        request.cut()

    with serving(serve_bucket) as bucket, serving(lambda request: redirect(request, bucket.url)) as api:
        download(api.url, make_artifact(), tmp_path / "m", key="soul_secret")

    assert (tmp_path / "m").read_bytes() == CONTENT
    assert [headers.get("Range") for _, _, headers in bucket.seen] == [None, "bytes=400000-", "bytes=800000-"]
    assert all(headers["Authorization"] == "Bearer soul_secret" for _, _, headers in api.seen)
    assert not any("soul_secret" in str(headers) for _, _, headers in bucket.seen)


def test_a_bucket_with_other_bytes_leaves_no_file(tmp_path: Path) -> None:
    with (
        serving(lambda request: request.answer(200, CONTENT[:-1] + b"!")) as bucket,
        serving(lambda request: redirect(request, bucket.url)) as api,
        pytest.raises(DamagedDownload),
    ):
        download(api.url, make_artifact(), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"!", CONTENT + b"more"])
def test_bytes_that_differ_from_the_manifest_leave_no_file(content: bytes, tmp_path: Path) -> None:
    with serving(lambda request: serve_ranges(request, content)) as script, pytest.raises(DamagedDownload) as caught:
        download(script.url, make_artifact(), tmp_path / "m")
    assert caught.value.exit_code == CliExitCode.DAMAGED
    assert list(tmp_path.iterdir()) == []


def test_an_existing_file_is_checked_and_not_downloaded(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(CONTENT)
    with serving(serve_ranges) as script:
        assert download(script.url, make_artifact(), tmp_path / "m").how == "already there"
        assert script.num_requests == 0
    (tmp_path / "m").write_bytes(CONTENT[:-1] + b"!")
    with serving(serve_ranges) as script:
        assert download(script.url, make_artifact(), tmp_path / "m").how == "downloaded"
    assert (tmp_path / "m").read_bytes() == CONTENT


@pytest.mark.parametrize("path", ["../evil", "/etc/evil", "a/../../evil", "", "C:/evil", "a\\..\\evil"])
def test_a_server_cannot_write_outside_the_folder(path: str, tmp_path: Path) -> None:
    with serving(serve_ranges) as script, pytest.raises(BadInput):
        fetch_all(Transport(script.url, None), [make_artifact("good"), make_artifact(path)], tmp_path / "out")
    assert script.num_requests == 0
    assert not (tmp_path / "out").exists()


def test_folders_and_empty_files_are_made(tmp_path: Path) -> None:
    with serving(lambda request: serve_ranges(request, b"")) as script:
        transport = Transport(script.url, None)
        fetch_all(transport, [make_artifact("a/b/empty", b"")], tmp_path)
        transport.close()
    assert (tmp_path / "a" / "b" / "empty").read_bytes() == b""
