"""Following a job yields each event once and in order, over cut streams, and without any stream."""

import json
from collections.abc import Callable

import pytest

from soul_cli import events
from soul_cli.errors import CliExitCode, SoulError
from soul_cli.transport import Transport
from tests.soul_cli.faulty import Request, Script, serving

NUM_EVENTS = 6


def make_event(seq: int) -> dict[str, object]:
    return {"seq": seq, "kind": "progress", "data": {"done": seq}, "at": "2026-01-01T00:00:00Z"}


def send(request: Request, *seqs: int) -> None:
    for seq in seqs:
        request.wfile.write(f"id: {seq}\nevent: progress\ndata: {json.dumps(make_event(seq))}\n\n".encode())
    request.wfile.flush()


def serve_job(stream: Callable[[Request, int], None]) -> Callable[[Request], None]:
    """Return the handler of a job that has finished after four requests; `stream` scripts its SSE."""

    def handler(request: Request) -> None:
        path, _, query = request.path.partition("?")
        if path.endswith("/events/stream"):
            stream(request, int(request.headers["Last-Event-ID"]))
        elif path.endswith("/events"):
            after = int(query.removeprefix("after="))
            page = [make_event(seq) for seq in range(after + 1, NUM_EVENTS + 1)][:2]
            has_more = bool(page) and page[-1]["seq"] != NUM_EVENTS
            request.answer(200, json.dumps({"data": page, "has_more": has_more}).encode())
        else:
            status = "succeeded" if request.server.script.num_requests > 4 else "running"
            request.answer(200, json.dumps({"id": "job_1", "status": status}).encode())

    return handler


def follow(script: Script, after: int = 0) -> list[int]:
    transport = Transport(script.url, None, max_tries=3, sleep=lambda _seconds: None)
    try:
        return [event.seq for event in events.follow(transport, "job_1", after=after)]
    finally:
        transport.close()


def test_a_cut_stream_resumes_after_the_last_event() -> None:
    def stream(request: Request, after: int) -> None:
        request.begin(200, Content_Type="text/event-stream")
        # Cut twice; the second stream repeats an event, as a server that includes `after` would.
        send(request, *{0: (1, 2), 2: (2, 3, 4), 4: (5, 6)}[after])
        request.cut()

    with serving(serve_job(stream)) as script:
        assert follow(script) == [1, 2, 3, 4, 5, 6]
        ids = [headers["Last-Event-ID"] for _, path, headers in script.seen if path.endswith("stream")]
    assert ids == ["0", "2", "4"]


def test_a_server_without_streams_is_polled() -> None:
    with serving(serve_job(lambda request, _after: request.answer(404, b"{}"))) as script:
        assert follow(script, after=1) == [2, 3, 4, 5, 6]
        assert any("wait=30" in path for _, path, _ in script.seen)


def test_after_streams_without_events_the_job_is_polled() -> None:
    def send_nothing(request: Request, _after: int) -> None:
        request.begin(200, Content_Type="text/event-stream")
        request.cut()

    with serving(serve_job(send_nothing)) as script:
        assert follow(script) == [1, 2, 3, 4, 5, 6]
        assert len([1 for _, path, _ in script.seen if path.endswith("stream")]) <= events.MAX_BROKEN_STREAMS


@pytest.mark.parametrize(
    "headers",
    [{"Content_Type": "text/html"}, {"Content_Type": "text/event-stream", "Content_Encoding": "gzip"}],
    ids=["html", "broken encoding"],
)
def test_after_streams_that_a_proxy_breaks_the_job_is_polled(headers: dict[str, str]) -> None:
    with serving(serve_job(lambda request, _after: request.answer(200, b"<p>", **headers))) as script:
        assert follow(script) == [1, 2, 3, 4, 5, 6]


def test_following_a_job_that_does_not_exist_is_an_error() -> None:
    problem = json.dumps({"status": 404, "code": "not_found", "detail": "no such job"}).encode()
    with serving(lambda request: request.answer(404, problem)) as script, pytest.raises(SoulError) as caught:
        follow(script)
    assert caught.value.exit_code == CliExitCode.REFUSED
