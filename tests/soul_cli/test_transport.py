"""Retries where repeating is safe, never where it is not; every failure is a typed error with an exit code."""

import json
from collections.abc import Iterator

import pytest

from soul_cli.errors import CliExitCode, ServerUnreachable, SoulError
from soul_cli.transport import Transport
from tests.soul_cli.faulty import Request, Script, serving


class Pauses(list[float]):
    """Stands for time.sleep: remembers, and does not wait."""

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


def test_retry_after_is_obeyed(pauses: Pauses) -> None:
    for script in answers_after(2, "429"):
        transport = open_transport(script, pauses)
        transport.request("GET", "/x")
        assert pauses == [7.0, 7.0]
        transport.close()


def test_pauses_grow_and_then_it_gives_up_as_unreachable(pauses: Pauses) -> None:
    for script in answers_after(99, "cut"):
        transport = open_transport(script, pauses, tries=4)
        with pytest.raises(ServerUnreachable) as caught:
            transport.request("GET", "/x")
        assert caught.value.exit_code == CliExitCode.UNREACHABLE
        assert script.num_requests == 4
        assert len(pauses) == 3
        assert pauses[2] > pauses[0]
        transport.close()


def test_nobody_listening_is_unreachable_even_for_a_post(pauses: Pauses) -> None:
    with serving(lambda request: request.answer(200)) as script:
        pass
    transport = open_transport(script, pauses, tries=3)
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
def test_a_problem_becomes_an_error_with_all_it_says(status: int, exit_code: CliExitCode, pauses: Pauses) -> None:
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


def test_an_error_that_is_no_json_still_says_what_came(pauses: Pauses) -> None:
    with serving(lambda request: request.answer(413, b"too large")) as script:
        transport = open_transport(script, pauses)
        with pytest.raises(SoulError, match="HTTP 413: too large"):
            transport.request("GET", "/x")
        transport.close()


def test_a_streamed_upload_is_sent_whole_again_after_a_cut(pauses: Pauses) -> None:
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
