"""`soul status | watch | logs | jobs`: submitted jobs. `commands_actions` changes them."""

from typing import Annotated, NoReturn

import typer
from rich.markup import escape

from soul_cli.client import SoulClient
from soul_cli.job_logs import format_log_line
from soul_cli.options import JobArgument, JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, make_job_fields, print_fields, print_json, print_table
from soul_cli.resources import Job
from soul_cli.submission import parse_pairs
from soul_cli.watch import get_exit_code, print_outcome, show_events


def show_status(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show one job."""
    with connect(url, key, as_json=as_json) as client:
        show_job(client.get_job(job), as_json=as_json)


def watch(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Follow a job until it finishes.

    Shows phase, step, loss and ETA. Ctrl-C leaves the job running. With --json: one event per line.
    """
    with connect(url, key, as_json=as_json) as client:
        follow_and_exit(client, job, live=True, as_json=as_json)


def show_log(
    job: JobArgument,
    attempt: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Only the lines of this attempt.", show_default=False)
    ] = None,
    tail: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=1000, help="Only the last N lines.", show_default=False)
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Print new lines until the job finishes.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the log of a job.

    It has the lines of the job's worker, its engine and their libraries, and no text of the datasets. With --json: one
    object per line.
    """
    with connect(url, key, as_json=as_json) as client:
        read = client.follow_log if follow else client.read_log
        shown_attempt = 0
        for line in read(job, attempt=attempt, tail=tail):
            if as_json:
                typer.echo(line.model_dump_json())
                continue
            if line.attempt != shown_attempt:
                typer.echo(f"attempt {line.attempt}, {line.at:%Y-%m-%d}")
                shown_attempt = line.attempt
            typer.echo(format_log_line(line))


def list_jobs(
    status: Annotated[
        str | None,
        typer.Option(
            metavar="STATUS",
            help="Only these jobs: queued, running, paused, succeeded, failed or cancelled.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option(metavar="KIND", help="Only jobs of this kind: unlearn, finetune or evaluate.", show_default=False),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only jobs with this metadata. Repeatable.", show_default=False),
    ] = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="Maximum number of jobs to list.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect(url, key, as_json=as_json) as client:
        pairs = parse_pairs(metadata or (), option="--metadata")
        jobs = list(client.list_jobs(status=status, kind=kind, metadata=pairs, limit=limit))
    if as_json:
        print_json(jobs)
        return
    rows = [
        (
            job.id,
            job.name,
            job.kind,
            job.status,
            job.phase if job.status == "running" else None,
            job.verdict,
            job.created_at,
        )
        for job in jobs
    ]
    print_table(["id", "name", "kind", "status", "phase", "verdict", "created"], rows)


def follow_and_exit(client: SoulClient, job_id: str, *, live: bool, as_json: bool) -> NoReturn:
    """Follow a job until it finishes, and exit with its exit code."""
    if live and as_json:
        for event in client.stream_events(job_id):
            typer.echo(event.model_dump_json())
        job = client.get_job(job_id)
    elif live:
        try:
            show_events(job_id, client.stream_events(job_id), console)
        except KeyboardInterrupt:
            console.print("\nThe job keeps running.")
            console.print(f"  soul watch {job_id}    follow it again")
            console.print(f"  soul pause {job_id}    pause it")
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
        for warning in job.warnings:
            if warning != (job.status_reason or {}).get("message"):
                console.print(f"warning: {escape(warning)}", soft_wrap=True)
