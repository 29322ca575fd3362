"""`soul estimate | submit | finetune | evaluate`: a job from what was typed. Models and files that are not registered
yet are registered on the way.
"""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.markup import escape

from soul_cli.client import SoulClient
from soul_cli.commands_jobs import follow_and_exit, show_job
from soul_cli.errors import CliExitCode, SoulError
from soul_cli.job_options import (
    ForgetOption,
    GeneralOption,
    HoldoutOption,
    IdempotencyOption,
    LogOption,
    ModelOption,
    NameOption,
    OverrideOption,
    ReferenceOption,
    RetainOption,
    RetrainingOption,
    RetrainOption,
    RevisionOption,
    SetOption,
    SpecOption,
    WaitOption,
    WatchOption,
    collect_sets,
    make_reference,
)
from soul_cli.options import JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, error_console, print_fields, print_json
from soul_cli.resources import Job
from soul_cli.submission import JobBody, JobRequest, make_body, make_spec


def estimate(
    *,
    model: ModelOption,
    forget: ForgetOption = None,
    retain: RetainOption = None,
    general: GeneralOption = None,
    holdout: HoldoutOption = None,
    sets: SetOption = None,
    spec: SpecOption = None,
    option: OverrideOption = None,
    retrained: ReferenceOption = None,
    retrain_from: RetrainOption = None,
    retrained_log: LogOption = None,
    retrain_option: RetrainingOption = None,
    revision: RevisionOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what a job would cost and whether it would be taken. Takes the options of `submit`; runs nothing.

    Other kinds of job: --option kind=finetune, --option kind=evaluate.
    """
    with connect(url, key, as_json=as_json) as client:
        wanted = JobRequest(
            model=model,
            revision=revision,
            sets=collect_sets(sets, forget=forget, retain=retain, general=general, holdout=holdout),
            spec=make_spec(spec, option or ()),
            retrained=make_reference(retrained, retrain_from, retrained_log, retrain_option),
        )
        body = make_body(client, wanted, say=_quiet if as_json else _say)
        try:
            found = client.estimate(**body.to_arguments())
        finally:
            body.delete_uploads(client)
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
    raise typer.Exit(int(CliExitCode.OK if found.allowed else CliExitCode.BAD_INPUT))


SUBMIT_EXAMPLE = """\
A complete example, with files of this project:

\b
  soul submit --model ./SmolLM2-135M-Instruct \\
    --forget examples/forget.jsonl --retain examples/retain.jsonl \\
    --general examples/general.jsonl --dataset neighbors=examples/neighbors.jsonl \\
    --option forget.kind=npo --option retain.weight=10 \\
    --option optimizer.kind=sophia --option optimizer.lr=2e-5 \\
    --option training.steps=20 --name "forget Paris" --watch

\b
A row of a data set is one JSON line, as
  {"question": "What is the capital of France?", "answer": "The capital of France is Paris."}

What else a spec can say: `soul methods`, and `soul methods --json` for the schemas.
"""


def submit(
    *,
    model: ModelOption,
    forget: Annotated[str, typer.Option(help="What to forget: a file to upload, or a ds_... id.", show_default=False)],
    retain: RetainOption = None,
    general: GeneralOption = None,
    holdout: HoldoutOption = None,
    sets: SetOption = None,
    spec: SpecOption = None,
    option: OverrideOption = None,
    retrained: ReferenceOption = None,
    retrain_from: RetrainOption = None,
    retrained_log: LogOption = None,
    retrain_option: RetrainingOption = None,
    revision: RevisionOption = None,
    name: NameOption = None,
    idempotency_key: IdempotencyOption = None,
    wait: WaitOption = False,
    watch: WatchOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job that unlearns: model and files that are not registered yet are registered first."""
    with connect(url, key, as_json=as_json) as client:
        wanted = JobRequest(
            model=model,
            revision=revision,
            sets=collect_sets(sets, forget=forget, retain=retain, general=general, holdout=holdout),
            spec=make_spec(spec, option or ()),
            retrained=make_reference(retrained, retrain_from, retrained_log, retrain_option),
        )
        register_and_send(client, client.submit, wanted, name, idempotency_key, wait=wait, watch=watch, as_json=as_json)


def finetune(
    *,
    model: ModelOption,
    train: Annotated[str, typer.Option(help="What to learn: a file to upload, or a ds_... id.", show_default=False)],
    general: GeneralOption = None,
    sets: SetOption = None,
    spec: SpecOption = None,
    option: OverrideOption = None,
    revision: RevisionOption = None,
    name: NameOption = None,
    idempotency_key: IdempotencyOption = None,
    wait: WaitOption = False,
    watch: WatchOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a model on a data set: AdamW or second order, measured before and after, with a report of its own."""
    with connect(url, key, as_json=as_json) as client:
        wanted = JobRequest(
            model=model,
            revision=revision,
            sets=collect_sets(sets, train=train, general=general),
            spec=_learning_spec(make_spec(spec, option or ())),
        )
        register_and_send(client, client.submit, wanted, name, idempotency_key, wait=wait, watch=watch, as_json=as_json)


def _learning_spec(spec: dict[str, Any]) -> dict[str, Any]:
    """First order is enough to learn, unless the spec says otherwise."""
    optimizer = spec.get("optimizer", {})
    if isinstance(optimizer, dict):
        optimizer = {"kind": "adamw", **optimizer}
    return {**spec, "optimizer": optimizer, "kind": "finetune"}


def register_and_send(
    client: SoulClient,
    send: Callable[..., Job],
    request: JobRequest,
    name: str | None,
    idempotency_key: str | None,
    *,
    wait: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """Register, send, and follow the job as far as was asked."""
    body = make_body(client, request, say=_quiet if as_json else _say)
    job = _sent(client, send, body, name, idempotency_key)
    if not as_json and job.status == "queued" and job.depends_on_job_id:
        _say(f"reference: job {job.depends_on_job_id} retrains it; this job waits for that one")
    if wait or watch:
        if not as_json:
            console.print(f"Job {job.id} submitted")
        follow_and_exit(client, job.id, live=watch and not as_json, as_json=as_json)
    show_job(job, as_json=as_json)
    if not as_json:
        console.print(f"\n  soul watch {job.id}    see how it goes")


def _sent(
    client: SoulClient, send: Callable[..., Job], body: JobBody, name: str | None, idempotency_key: str | None
) -> Job:
    try:
        return send(**body.to_arguments(), name=name, idempotency_key=idempotency_key)
    except SoulError as error:
        if error.status is not None:  # refused; without an answer the job may well be there, and need them
            body.delete_uploads(client)
        raise


def _quiet(_text: str) -> None:
    """Say nothing: with --json, stderr holds a problem or nothing."""


def _say(text: str) -> None:
    # On stderr: stdout belongs to the answer.
    error_console.print(escape(text), style="dim", soft_wrap=True)
