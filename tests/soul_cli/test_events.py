"""Following a job: each event once and in order, over cut streams, and without streams at all."""

import json
from collections.abc import Callable

import pytest

from soul_cli import events
from soul_cli.errors import CliExitCode, SoulError
from soul_cli.transport import Transport
from tests.soul_cli.faulty import Request, Script, serving

NUM_EVENTS = 6


def event(seq: int) -> dict[str, object]:
    return {"seq": seq, "kind": "progress", "data": {"done": seq}, "at": "2026-01-01T00:00:00Z"}


def send(request: Request, *seqs: int) -> None:
    for seq in seqs:
        request.wfile.write(f"id: {seq}\nevent: progress\ndata: {json.dumps(event(seq))}\n\n".encode())
    request.wfile.flush()


def job_server(stream: Callable[[Request, int], None]) -> Callable[[Request], None]:
    """A job that has finished once its last event was asked for; `stream` scripts its SSE."""

    def handler(request: Request) -> None:
        path, _, query = request.path.partition("?")
        if path.endswith("/events/stream"):
            stream(request, int(request.headers["Last-Event-ID"]))
        elif path.endswith("/events"):
            after = int(query.removeprefix("after="))
            found = [event(seq) for seq in range(after + 1, NUM_EVENTS + 1)][:2]
            more = bool(found) and found[-1]["seq"] != NUM_EVENTS
            request.answer(200, json.dumps({"data": found, "has_more": more}).encode())
        else:
            asked = [seen for _, seen, _ in request.server.script.seen]
            finished = len(asked) > 4
            request.answer(200, json.dumps({"id": "job_1", "status": "succeeded" if finished else "running"}).encode())

    return handler


def follow(script: Script, after: int = 0) -> list[int]:
    transport = Transport(script.url, None, max_tries=3, sleep=lambda _seconds: None)
    try:
        return [found.seq for found in events.follow(transport, "job_1", after=after)]
    finally:
        transport.close()


def test_a_cut_stream_goes_on_behind_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def stream(request: Request, after: int) -> None:
        request.begin(200, Content_Type="text/event-stream")
        # Twice cut in the middle; the second stream repeats an event, as a server with another idea of `after` might.
        send(request, *{0: (1, 2), 2: (2, 3, 4), 4: (5, 6)}[after])
        request.cut()

    with serving(job_server(stream)) as script:
        assert follow(script) == [1, 2, 3, 4, 5, 6]
        ids = [headers["Last-Event-ID"] for _, path, headers in script.seen if path.endswith("stream")]
    assert ids == ["0", "2", "4"]


def test_a_server_without_streams_is_polled() -> None:
    with serving(job_server(lambda request, _after: request.answer(404, b"{}"))) as script:
        assert follow(script, after=1) == [2, 3, 4, 5, 6]
        assert any("wait=30" in path for _, path, _ in script.seen)


def test_streams_that_bring_nothing_give_way_to_the_poll() -> None:
    def silent(request: Request, _after: int) -> None:
        request.begin(200, Content_Type="text/event-stream")
        request.cut()

    with serving(job_server(silent)) as script:
        assert follow(script) == [1, 2, 3, 4, 5, 6]
        assert len([1 for _, path, _ in script.seen if path.endswith("stream")]) <= events.MAX_BROKEN_STREAMS


def test_a_proxy_that_answers_html_gives_way_to_the_poll() -> None:
    with serving(job_server(lambda request, _after: request.answer(200, b"<p>", Content_Type="text/html"))) as script:
        assert follow(script) == [1, 2, 3, 4, 5, 6]


def test_a_job_that_does_not_exist_is_an_error_not_an_endless_wait() -> None:
    problem = json.dumps({"status": 404, "code": "not_found", "detail": "no such job"}).encode()
    with serving(lambda request: request.answer(404, problem)) as script, pytest.raises(SoulError) as caught:
        follow(script)
    assert caught.value.exit_code == CliExitCode.REFUSED
