"""`soul cancel | pause | resume | retry`: what a user requests of a job. `soul workers`: who runs it."""

from typing import Annotated, Any, Literal

import typer

from soul_cli.commands_jobs import show_job
from soul_cli.job_options import DeadlineOption, IdempotencyKeyOption, MaxGpuSecondsOption, make_scheduling
from soul_cli.options import JobArgument, JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, print_json, print_table
from soul_cli.resources import Job, Worker
from soul_core.formatting import format_bytes


def cancel(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job.

    A queued job is cancelled at once, a running one at its next step. No results are kept.
    """
    with connect(url, key, as_json=as_json) as client:
        cancelled_job = client.cancel(job)
    _print_action(cancelled_job, "cancelled", "will stop at its next step", as_json=as_json)


def pause(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Pause a job.

    A queued job is paused at once; a running one writes a checkpoint at its next step and frees its worker.
    """
    with connect(url, key, as_json=as_json) as client:
        paused_job = client.pause(job)
    _print_action(paused_job, "paused", "will write a checkpoint at its next step and pause", as_json=as_json)


def resume(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Resume a paused job.

    It waits in the queue again, and continues from its checkpoint with the same result.
    """
    with connect(url, key, as_json=as_json) as client:
        resumed_job = client.resume(job)
    _print_action(resumed_job, "queued", "keeps running", as_json=as_json)


def retry(
    *,
    job: JobArgument,
    priority: Annotated[
        Literal["low", "normal", "high"] | None,
        typer.Option(help="Jobs of a higher priority run first.", show_default="the job's"),
    ] = None,
    deadline: DeadlineOption = None,
    no_deadline: Annotated[bool, typer.Option("--no-deadline", help="Without the job's deadline.")] = False,
    max_gpu_seconds: MaxGpuSecondsOption = None,
    idempotency_key: IdempotencyKeyOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a failed or cancelled job again.

    The retry is a new job with the same model, datasets and spec. It starts from the beginning.
    """
    changes: dict[str, Any] = {"deadline": None} if no_deadline else {}
    changes |= make_scheduling(priority=priority, deadline=deadline, max_gpu_seconds=max_gpu_seconds)
    with connect(url, key, as_json=as_json) as client:
        new_job = client.retry(job, idempotency_key=idempotency_key, **changes)
    show_job(new_job, as_json=as_json)
    if not as_json:
        console.print(f"\n  soul watch {new_job.id}    follow it")


def list_workers(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List the workers of the fleet, with their devices."""
    with connect(url, key, as_json=as_json) as client:
        workers = client.list_workers()
    if as_json:
        print_json(workers)
    elif workers:
        columns = ["name", "state", "device", "memory", "load", "job", "last seen"]
        print_table(columns, map(_make_row, workers))
    else:
        console.print("no worker is running: jobs wait until one starts")


def _make_row(worker: Worker) -> tuple[Any, ...]:
    memory = None if worker.memory_bytes is None else format_bytes(worker.memory_bytes)
    return worker.name, worker.state, worker.device, memory, worker.load, worker.job_id, worker.last_seen_at


def _print_action(job: Job, final_status: str, otherwise: str, *, as_json: bool) -> None:
    """Print that the action is complete, or what the job will do."""
    if as_json:
        print_json(job)
    elif job.status == final_status:
        console.print(f"{job.id} {final_status}")
    else:
        console.print(f"{job.id} {otherwise} (now: {job.status})")
