"""A job's events, live: server-sent events where they work, a long poll where they do not."""

from collections.abc import Iterator

import httpx
from httpx_sse import EventSource, SSEError

from soul_cli.errors import SoulError
from soul_cli.resources import Job, JobEvent
from soul_cli.transport import Transport

#: Broken streams in a row without a single event after which the long poll takes over (proxies that cut or buffer).
MAX_BROKEN_STREAMS = 3
WAIT_SECONDS = 30.0
#: A server that sends keep-alives every 15 s is silent this long only when the connection is dead.
STREAM_SILENCE_SECONDS = 60.0


def get_job(transport: Transport, job_id: str, *, wait_seconds: float | None = None) -> Job:
    """Return one job; with `wait_seconds` the server holds the answer until the job changes."""
    params = {} if wait_seconds is None else {"wait": f"{wait_seconds:g}"}
    timeout = httpx.Timeout(30.0 + (wait_seconds or 0), connect=10.0)
    return Job.model_validate(transport.request("GET", f"/v1/jobs/{job_id}", params=params, timeout=timeout).json())


def follow(transport: Transport, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
    """Yield every event after `after` exactly once and in order, until the job has finished; progress in between.

    A cut stream is taken up again behind the last event seen (Last-Event-ID).
    """
    seen = after
    num_broken = 0
    while num_broken < MAX_BROKEN_STREAMS:
        before = seen
        try:
            for event in _stream(transport, job_id, seen):
                if event.seq > seen:
                    seen = event.seq
                    yield event
                elif event.seq == 0:
                    yield event
        except (httpx.TransportError, SSEError):
            pass
        except SoulError as error:
            if error.status not in {404, 405, 406, 501} or before > after:
                raise
            break  # a server without streams; a job that does not exist is told apart by the poll
        if get_job(transport, job_id).is_terminal:
            break
        num_broken = 0 if seen > before else num_broken + 1
        if num_broken:
            transport.pause(num_broken)
    yield from _poll(transport, job_id, seen)


def _stream(transport: Transport, job_id: str, after: int) -> Iterator[JobEvent]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    timeout = httpx.Timeout(STREAM_SILENCE_SECONDS, connect=10.0)
    path = f"/v1/jobs/{job_id}/events/stream"
    with transport.stream("GET", path, headers=headers, timeout=timeout) as response:
        for message in EventSource(response).iter_sse():
            if message.data:
                yield JobEvent.model_validate_json(message.data)


def _poll(transport: Transport, job_id: str, seen: int) -> Iterator[JobEvent]:
    """Yield the rest by asking; ends once the job has finished and its last events are out."""
    while True:
        # The job is read before its events: what it did up to then is certainly among them.
        job = get_job(transport, job_id)
        while True:
            answer = transport.request("GET", f"/v1/jobs/{job_id}/events", params={"after": seen}).json()
            for item in answer["data"]:
                event = JobEvent.model_validate(item)
                seen = event.seq
                yield event
            if not (answer.get("has_more") and answer["data"]):
                break
        if job.is_terminal:
            return
        if job.status == "running" and job.progress.total_steps:
            yield _moment(job)
        get_job(transport, job_id, wait_seconds=WAIT_SECONDS)


def _moment(job: Job) -> JobEvent:
    """Return where a job is now, as a stream would tell it."""
    now = {"phase": job.phase, "done": job.progress.step, "total": job.progress.total_steps}
    return JobEvent(seq=0, kind="progress", data={**now, "eta_seconds": job.progress.eta_seconds})
