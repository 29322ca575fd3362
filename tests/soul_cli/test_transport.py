"""Requests are repeated only where that is safe, and every failure is a SoulError with an exit code."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from soul_cli import download, events
from soul_cli.errors import BadAnswer, BadInput, CliExitCode, ServerUnreachable, SoulError
from soul_cli.resources import Artifact
from soul_cli.transport import Transport
from tests.soul_cli.faulty import Request, Script, serving


class Pauses(list[float]):
    """A time.sleep that records the pauses and does not wait."""

    def __call__(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def pauses() -> Pauses:
    return Pauses()


def open_transport(script: Script, pauses: Pauses, **options: object) -> Transport:
    return Transport(script.url, "soul_test_key", sleep=pauses, **options)  # type: ignore[arg-type]


def answers_after(num_faults: int, fault: str) -> Iterator[Script]:
    def handler(request: Request) -> None:
        if request.server.script.num_requests <= num_faults:
            if fault == "cut":
                request.cut()
            else:
                request.answer(int(fault), b"{}", Retry_After="7")
        else:
            request.answer(200, b'{"ok": true}')

    with serving(handler) as script:
        yield script


@pytest.mark.parametrize("fault", ["cut", "429", "503"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_request_that_may_be_repeated_is_repeated(fault: str, method: str, pauses: Pauses) -> None:
    for script in answers_after(2, fault):
        transport = open_transport(script, pauses)
        assert transport.request(method, "/x").json() == {"ok": True}
        assert script.num_requests == 3
        transport.close()


@pytest.mark.parametrize("fault", ["cut", "503"])
def test_a_post_is_repeated_only_with_an_idempotency_key(fault: str, pauses: Pauses) -> None:
    for script in answers_after(1, fault):
        transport = open_transport(script, pauses)
        with pytest.raises(SoulError):
            transport.request("POST", "/x", json={})
        assert script.num_requests == 1
        transport.close()
    for script in answers_after(1, fault):
        transport = open_transport(script, pauses)
        assert transport.request("POST", "/x", json={}, headers={"Idempotency-Key": "k"}).status_code == 200
        assert [headers["Idempotency-Key"] for _, _, headers in script.seen] == ["k", "k"]
        transport.close()


def test_a_pause_is_as_long_as_retry_after(pauses: Pauses) -> None:
    for script in answers_after(2, "429"):
        transport = open_transport(script, pauses)
        transport.request("GET", "/x")
        assert pauses == [7.0, 7.0]
        transport.close()


def test_pauses_grow_and_after_the_last_try_the_server_is_unreachable(pauses: Pauses) -> None:
    for script in answers_after(99, "cut"):
        transport = open_transport(script, pauses, max_tries=4)
        with pytest.raises(ServerUnreachable) as caught:
            transport.request("GET", "/x")
        assert caught.value.exit_code == CliExitCode.UNREACHABLE
        assert script.num_requests == 4
        assert len(pauses) == 3
        assert pauses[2] > pauses[0]
        transport.close()


def test_a_refused_connection_is_retried_even_for_a_post(pauses: Pauses) -> None:
    with serving(lambda request: request.answer(200)) as script:
        pass
    transport = open_transport(script, pauses, max_tries=3)
    with pytest.raises(ServerUnreachable, match=script.url):
        transport.request("POST", "/x")
    assert len(pauses) == 2
    transport.close()


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [
        (400, CliExitCode.BAD_INPUT),
        (401, CliExitCode.UNAUTHORIZED),
        (403, CliExitCode.UNAUTHORIZED),
        (404, CliExitCode.REFUSED),
        (409, CliExitCode.REFUSED),
        (413, CliExitCode.BAD_INPUT),
        (422, CliExitCode.BAD_INPUT),
        (500, CliExitCode.UNEXPECTED),
    ],
)
def test_a_problem_becomes_an_error_with_all_its_members(status: int, exit_code: CliExitCode, pauses: Pauses) -> None:
    problem = {
        "title": "No",
        "status": status,
        "code": "some_code",
        "detail": "because",
        "errors": [{"pointer": "/spec/forget", "detail": "did you mean 'npo'?"}],
        "request_id": "req_1",
        "allowed_actions": ["retry"],
    }
    body = json.dumps(problem).encode()
    with serving(lambda request: request.answer(status, body, Content_Type="application/problem+json")) as script:
        transport = open_transport(script, pauses)
        with pytest.raises(SoulError) as caught:
            transport.request("GET", "/x")
        transport.close()
    error = caught.value
    assert (error.status, error.code, error.detail, error.request_id) == (status, "some_code", "because", "req_1")
    assert error.errors == problem["errors"]
    assert error.extra["allowed_actions"] == ["retry"]
    assert error.exit_code == exit_code


def test_an_error_that_is_not_json_has_status_and_body_in_its_message(pauses: Pauses) -> None:
    with serving(lambda request: request.answer(413, b"too large")) as script:
        transport = open_transport(script, pauses)
        with pytest.raises(SoulError, match="HTTP 413: too large"):
            transport.request("GET", "/x")
        transport.close()


def test_a_streamed_upload_is_sent_completely_again_after_a_cut(pauses: Pauses) -> None:
    bodies: list[bytes] = []

    def handler(request: Request) -> None:
        bodies.append(request.body)
        if len(bodies) == 1:
            request.cut()
        else:
            request.answer(200, b"{}")

    with serving(handler) as script:
        transport = open_transport(script, pauses)
        transport.request("PUT", "/x", content=lambda: iter([b"one", b"two"]))
        transport.close()
    assert bodies == [b"onetwo", b"onetwo"]


def list_subclasses(kind: type[httpx2.RequestError]) -> list[type[httpx2.RequestError]]:
    return [kind, *(subclass for direct in kind.__subclasses__() for subclass in list_subclasses(direct))]


REQUEST_ERRORS = [*dict.fromkeys(list_subclasses(httpx2.RequestError))]
ERROR_CLASSES: dict[type[httpx2.RequestError], type[SoulError]] = {
    httpx2.RequestError: BadAnswer,
    httpx2.DecodingError: BadAnswer,
    httpx2.TooManyRedirects: BadAnswer,
    httpx2.UnsupportedProtocol: BadInput,
    httpx2.LocalProtocolError: BadInput,
}


class FailingStream(httpx2.SyncByteStream):
    """A response body whose first chunk raises."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        raise self.error


@pytest.fixture(scope="module")
def transport() -> Transport:
    """A transport whose `http` a test replaces: making one reads the system's certificates, a tenth of a second."""
    return Transport("http://server", None, max_tries=3, sleep=lambda _seconds: None)


def inject_error(transport: Transport, kind: type[httpx2.RequestError], *, in_body: bool) -> None:
    """Make a transport fail with this error while it sends a request, or while it reads the body."""

    def handle(request: httpx2.Request) -> httpx2.Response:
        error = kind("the fault", request=request)
        if not in_body:
            raise error
        return httpx2.Response(200, headers={"Content-Type": "text/event-stream"}, stream=FailingStream(error))

    transport.http = httpx2.Client(base_url=transport.url, transport=httpx2.MockTransport(handle))


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
@pytest.mark.parametrize("in_body", [False, True], ids=["sending", "reading"])
def test_every_error_of_the_http_client_becomes_a_soul_error(
    kind: type[httpx2.RequestError], in_body: bool, transport: Transport, tmp_path: Path
) -> None:
    inject_error(transport, kind, in_body=in_body)
    artifact = Artifact(id="art_1", path="m", size_bytes=1, sha256="0" * 64)

    with pytest.raises(ERROR_CLASSES.get(kind, ServerUnreachable), match="the fault"):
        transport.request("GET", "/x")
    with pytest.raises(SoulError, match="the fault"):
        download.fetch(transport, artifact, tmp_path / "m")
    with pytest.raises(SoulError, match="the fault"):
        list(events.follow(transport, "job_1"))


@pytest.mark.parametrize("kind", [httpx2.UnsupportedProtocol, httpx2.LocalProtocolError, httpx2.TooManyRedirects])
def test_a_fault_that_a_retry_cannot_cure_is_not_retried(
    kind: type[httpx2.RequestError], transport: Transport, pauses: Pauses, monkeypatch: pytest.MonkeyPatch
) -> None:
    inject_error(transport, kind, in_body=False)
    monkeypatch.setattr(transport, "sleep", pauses)

    with pytest.raises(SoulError):
        transport.request("GET", "/x")

    assert pauses == []


@pytest.mark.parametrize(
    "url", ["http://", "http://h:port", "http://[::1", "http://h/\n", "ftp://h", "h:80", "", "://"]
)
def test_a_url_that_is_not_valid_is_bad_input_at_construction(url: str) -> None:
    with pytest.raises(BadInput, match="URL"):
        Transport(url, None)


@pytest.mark.parametrize("key", ["soul_\n", "soul_“x”", "soul_\u00a0x"])
def test_a_key_that_no_header_can_hold_is_bad_input_at_construction(key: str) -> None:
    with pytest.raises(BadInput, match="API key") as caught:
        Transport("http://server", key)
    assert key not in str(caught.value)


@pytest.mark.parametrize("proxy", ["nonsense://proxy", "http://proxy:port"])
def test_a_proxy_that_cannot_be_used_is_bad_input_at_construction(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(BadInput, match="ALL_PROXY"):
        Transport("http://server", None)


def test_a_path_that_is_not_valid_is_bad_input_also_for_a_stream(transport: Transport) -> None:
    with pytest.raises(BadInput):
        transport.request("GET", "/v1/jobs/job_\n")
    with pytest.raises(BadInput), transport.stream("GET", "/v1/jobs/job_\n"):
        pass


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"\xff"])
def test_an_answer_without_a_json_object_names_the_url(body: bytes, pauses: Pauses) -> None:
    with serving(lambda request: request.answer(200, body)) as script:
        transport = open_transport(script, pauses)
        with pytest.raises(BadAnswer, match=f"{script.url}/v1/me did not answer with a JSON object"):
            transport.request_json("GET", "/v1/me")
        transport.close()
