"""`soul status | watch | cancel | jobs`: a job that is there, to its end."""

from typing import Annotated, NoReturn

import typer

from soul_cli.client import SoulClient
from soul_cli.options import JobArgument, JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, make_job_fields, print_fields, print_json, print_table
from soul_cli.resources import Job
from soul_cli.watch import get_exit_code, print_outcome
from soul_cli.watch import watch as show


def show_status(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show one job."""
    with connect(url, key, as_json=as_json) as client:
        show_job(client.get_job(job), as_json=as_json)


def watch(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Follow a job to its end: phase, step, loss, ETA. Ctrl-C leaves it running. With --json: one event a line."""
    with connect(url, key, as_json=as_json) as client:
        follow_and_exit(client, job, live=True, as_json=as_json)


def cancel(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Cancel a job. A queued one ends at once, a running one at its next step; nothing of it is kept."""
    with connect(url, key, as_json=as_json) as client:
        found = client.cancel(job)
    if as_json:
        print_json(found)
    elif found.status == "cancelled":
        console.print(f"{job} cancelled")
    else:
        console.print(f"{job} will stop at its next step (now: {found.status})")


def list_jobs(
    status: Annotated[
        str | None, typer.Option(help="Only these: queued, running, succeeded, failed, cancelled.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only these: unlearn, finetune, evaluate.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most list_jobs to list.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect(url, key, as_json=as_json) as client:
        found = list(client.list_jobs(status=status, kind=kind, limit=limit))
    if as_json:
        print_json(found)
        return
    rows = [
        (j.id, j.name, j.kind, j.status, j.phase if j.status == "running" else None, j.verdict, j.created_at)
        for j in found
    ]
    print_table(["id", "name", "kind", "status", "phase", "verdict", "created"], rows)


def follow_and_exit(client: SoulClient, job_id: str, *, live: bool, as_json: bool) -> NoReturn:
    """Follow a job to its end and leave with the exit code it stands for."""
    if live and as_json:
        for event in client.stream_events(job_id):
            typer.echo(event.model_dump_json())
        job = client.get_job(job_id)
    elif live:
        try:
            show(job_id, client.stream_events(job_id), console)
        except KeyboardInterrupt:
            console.print("\nThe job goes on without you.")
            console.print(f"  soul watch {job_id}    come back to it")
            console.print(f"  soul cancel {job_id}   stop it")
            raise
        job = client.get_job(job_id)
        print_outcome(job, console)
    else:
        job = client.wait(job_id)
        show_job(job, as_json=as_json)
    raise typer.Exit(int(get_exit_code(job)))


def show_job(job: Job, *, as_json: bool) -> None:
    """Print one job."""
    if as_json:
        print_json(job)
    else:
        print_fields(make_job_fields(job))
