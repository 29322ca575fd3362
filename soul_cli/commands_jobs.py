"""`soul estimate | submit | status | watch | cancel | jobs`: a job from asking to its end."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from soul_cli.client import SoulClient
from soul_cli.errors import Exit, SoulError
from soul_cli.options import JobArgument, JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, errors, job_lines, print_fields, print_json, print_table
from soul_cli.resources import Job
from soul_cli.submission import Body, Say, make_body, parse_sets
from soul_cli.watch import outcome, say_outcome
from soul_cli.watch import watch as show

ModelOption = Annotated[
    str,
    typer.Option(
        help="mdl_... id, or a folder, GGUF file, hub id (owner/name) or job_... to register.", show_default=False
    ),
]
ForgetOption = Annotated[
    str, typer.Option(help="What to forget: a file to upload, or a ds_... id.", show_default=False)
]
RetainOption = Annotated[str | None, typer.Option(help="What must stay: a file or a ds_... id.", show_default=False)]
GeneralOption = Annotated[
    str | None,
    typer.Option(help="Plain text for general utility (perplexity): a file or a ds_... id.", show_default=False),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=FILE", help="A further set, measured only: --set neighbours=n.jsonl"),
]
SpecOption = Annotated[Path | None, typer.Option(help="The spec, as a JSON file; defaults where it is silent.")]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option("--set-spec", metavar="PATH=VALUE", help="One setting over the spec: --set-spec training.steps=30"),
]
RevisionOption = Annotated[str | None, typer.Option(help="Hub models: branch, tag or commit; it is pinned.")]


def estimate(
    *,
    model: ModelOption,
    forget: ForgetOption,
    retain: RetainOption = None,
    general: GeneralOption = None,
    sets: SetOption = None,
    spec: SpecOption = None,
    set_spec: OverrideOption = None,
    revision: RevisionOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a job would cost and whether it would be taken. Takes the options of `submit`; runs nothing."""
    with connect(url, key, as_json=as_json) as client:
        say = _quiet if as_json else _say
        body = _body(client, model, revision, _sets(forget, retain, general, sets), spec, set_spec, say)
        try:
            found = client.estimate(model_id=body.model_id, datasets=body.datasets, spec=body.spec)
        finally:
            body.take_back(client)
    if as_json:
        print_json(found)
    else:
        print_fields(
            (name.replace("_", " "), value)
            for name, value in found.model_dump(mode="json").items()
            if not isinstance(value, list | dict)
        )
        for kind, lines in (("error", found.errors), ("warning", found.warnings)):
            for line in lines:
                console.print(f"{kind}: {escape(str(line.get('detail', line) if isinstance(line, dict) else line))}")
    raise typer.Exit(int(Exit.OK if found.allowed else Exit.BAD_INPUT))


SUBMIT_EXAMPLE = """\
A complete example, with files of this project:

\b
  soul submit --model ./SmolLM2-135M-Instruct \\
    --forget examples/forget.jsonl --retain examples/retain.jsonl \\
    --general examples/general.jsonl --set neighbours=examples/neighbours.jsonl \\
    --set-spec forget.kind=npo --set-spec retain.weight=10 \\
    --set-spec optimizer.kind=sophia --set-spec optimizer.lr=2e-5 \\
    --set-spec training.steps=20 --name "forget Paris" --watch

\b
A row of a data set is one JSON line, as
  {"question": "What is the capital of France?", "answer": "The capital of France is Paris."}

What else a spec can say: `soul methods`, and `soul methods --json` for the schemas.
"""


def submit(
    *,
    model: ModelOption,
    forget: ForgetOption,
    retain: RetainOption = None,
    general: GeneralOption = None,
    sets: SetOption = None,
    spec: SpecOption = None,
    set_spec: OverrideOption = None,
    revision: RevisionOption = None,
    name: Annotated[str | None, typer.Option(help="A name for lists.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="Your own key: submitting again with it finds the same job. Made if not given.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Return when the job has finished, with its exit code.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="The same, with a live view.")] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job: model and files that are not registered yet are registered first."""
    with connect(url, key, as_json=as_json) as client:
        say = _quiet if as_json else _say
        body = _body(client, model, revision, _sets(forget, retain, general, sets), spec, set_spec, say)
        try:
            job = client.submit(
                model_id=body.model_id,
                datasets=body.datasets,
                spec=body.spec,
                name=name,
                idempotency_key=idempotency_key,
            )
        except SoulError as error:
            if error.status is not None:  # refused; without an answer the job may well be there, and need them
                body.take_back(client)
            raise
        if not (wait or watch):
            _show_job(job, as_json=as_json)
            if not as_json:
                console.print(f"\n  soul watch {job.id}    see how it goes")
            return
        if not as_json:
            console.print(f"Job {job.id} submitted")
        _finish(client, job.id, live=watch and not as_json, as_json=as_json)


def status(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Show one job."""
    with connect(url, key, as_json=as_json) as client:
        _show_job(client.job(job), as_json=as_json)


def watch(job: JobArgument, url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """Follow a job to its end: phase, step, loss, ETA. Ctrl-C leaves it running. With --json: one event a line."""
    with connect(url, key, as_json=as_json) as client:
        _finish(client, job, live=True, as_json=as_json)


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


def jobs(
    status: Annotated[
        str | None, typer.Option(help="Only these: queued, running, succeeded, failed, cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most jobs to list.")] = 50,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    with connect(url, key, as_json=as_json) as client:
        found = list(client.jobs(status=status, limit=limit))
    if as_json:
        print_json(found)
        return
    rows = [
        (j.id, j.name, j.status, j.phase if j.status == "running" else None, j.verdict, j.created_at) for j in found
    ]
    print_table(["id", "name", "status", "phase", "verdict", "created"], rows)


def _finish(client: SoulClient, job_id: str, *, live: bool, as_json: bool) -> None:
    if live and as_json:
        for event in client.events(job_id):
            typer.echo(event.model_dump_json())
        job = client.job(job_id)
    elif live:
        try:
            show(job_id, client.events(job_id), console)
        except KeyboardInterrupt:
            console.print("\nThe job goes on without you.")
            console.print(f"  soul watch {job_id}    come back to it")
            console.print(f"  soul cancel {job_id}   stop it")
            raise
        job = client.job(job_id)
        say_outcome(job, console)
    else:
        job = client.wait(job_id)
        _show_job(job, as_json=as_json)
    raise typer.Exit(int(outcome(job)))


def _sets(forget: str, retain: str | None, general: str | None, more: list[str] | None) -> dict[str, str]:
    named = {"forget": forget, "retain": retain, "general": general}
    return {name: value for name, value in named.items() if value} | parse_sets(more or ())


def _body(
    client: SoulClient,
    model: str,
    revision: str | None,
    sets: dict[str, str],
    spec: Path | None,
    overrides: list[str] | None,
    say: Say,
) -> Body:
    return make_body(
        client, model=model, revision=revision, sets=sets, spec_file=spec, overrides=overrides or (), say=say
    )


def _quiet(_text: str) -> None:
    """Say nothing: with --json, stderr holds a problem or nothing."""


def _say(text: str) -> None:
    # On stderr: stdout belongs to the answer.
    errors.print(escape(text), style="dim", soft_wrap=True)


def _show_job(job: Job, *, as_json: bool) -> None:
    if as_json:
        print_json(job)
    else:
        print_fields(job_lines(job))
