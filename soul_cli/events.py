"""A job's events, live: by server-sent events, or by long polling where streams do not work."""

from collections.abc import Iterator

import httpx2

from soul_cli.errors import BadAnswer, SoulError
from soul_cli.resources import Job, JobEvent
from soul_cli.transport import Transport

#: Broken streams in a row without an event after which polling takes over (proxies that cut or buffer).
MAX_BROKEN_STREAMS = 3
WAIT_SECONDS = 30.0
#: The server sends a keep-alive every 15 s: after this much silence the connection is dead.
STREAM_SILENCE_SECONDS = 60.0


def get_job(transport: Transport, job_id: str, *, wait_seconds: float | None = None) -> Job:
    """Return one job; with `wait_seconds` the server holds the answer until the job changes."""
    params = {} if wait_seconds is None else {"wait": f"{wait_seconds:g}"}
    timeout = httpx2.Timeout(30.0 + (wait_seconds or 0), connect=10.0)
    return Job.model_validate(transport.request_json("GET", f"/v1/jobs/{job_id}", params=params, timeout=timeout))


def follow(transport: Transport, job_id: str, *, after: int = 0) -> Iterator[JobEvent]:
    """Yield every event after `after` once and in order, until the job has finished; progress in between.

    A broken stream resumes after the last event received (Last-Event-ID).
    """
    last_seq = after
    num_broken = 0
    while num_broken < MAX_BROKEN_STREAMS:
        seq_before = last_seq
        try:
            for event in _stream(transport, job_id, last_seq):
                if event.seq > last_seq:
                    last_seq = event.seq
                    yield event
                elif event.seq == 0:
                    yield event
        except (httpx2.TransportError, BadAnswer):
            pass
        except SoulError as error:
            if error.status not in {404, 405, 406, 501} or seq_before > after:
                raise
            break  # a server without streams; polling reports a job that does not exist
        if get_job(transport, job_id).is_terminal:
            break
        num_broken = 0 if last_seq > seq_before else num_broken + 1
        if num_broken:
            transport.pause(num_broken)
    yield from _poll(transport, job_id, last_seq)


def _stream(transport: Transport, job_id: str, after: int) -> Iterator[JobEvent]:
    headers = {"Accept": "text/event-stream", "Cache-Control": "no-store", "Last-Event-ID": str(after)}
    timeout = httpx2.Timeout(STREAM_SILENCE_SECONDS, connect=10.0)
    path = f"/v1/jobs/{job_id}/events/stream"
    with transport.stream("GET", path, headers=headers, timeout=timeout) as response:
        for message in httpx2.EventSource(response):
            if message.data:
                yield JobEvent.model_validate_json(message.data)


def _poll(transport: Transport, job_id: str, after: int) -> Iterator[JobEvent]:
    """Yield the remaining events by polling, until the job has finished and its last event is yielded."""
    while True:
        # The job is read before its events, so that the events contain everything up to its status.
        job = get_job(transport, job_id)
        while True:
            page = transport.request_json("GET", f"/v1/jobs/{job_id}/events", params={"after": after})
            for item in page["data"]:
                event = JobEvent.model_validate(item)
                after = event.seq
                yield event
            if not (page.get("has_more") and page["data"]):
                break
        if job.is_terminal:
            return
        if job.status == "running" and job.progress.total_steps:
            yield _make_progress_event(job)
        get_job(transport, job_id, wait_seconds=WAIT_SECONDS)


def _make_progress_event(job: Job) -> JobEvent:
    """Return the job's current progress as a stream sends it."""
    progress = {"phase": job.phase, "done": job.progress.step, "total": job.progress.total_steps}
    return JobEvent(seq=0, kind="progress", data={**progress, "eta_seconds": job.progress.eta_seconds})
