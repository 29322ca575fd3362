"""`soul estimate | submit | finetune`: a job from the command line. Models and files are registered on the way."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from soul_cli.client import SoulClient
from soul_cli.commands_jobs import follow_and_exit, show_job
from soul_cli.errors import CliExitCode, SoulError
from soul_cli.job_options import (
    DatasetsOption,
    DeadlineOption,
    ForgetOption,
    GeneralOption,
    HoldoutOption,
    IdempotencyKeyOption,
    MaxGpuSecondsOption,
    MetadataOption,
    ModelOption,
    NameOption,
    OptionsOption,
    PriorityOption,
    RetainOption,
    RetrainedLogOption,
    RetrainedOption,
    RetrainFromOption,
    RetrainOptionsOption,
    RevisionOption,
    SpecOption,
    WaitOption,
    WatchOption,
    collect_datasets,
    make_retrained,
    make_scheduling,
)
from soul_cli.options import JsonOption, KeyOption, UrlOption, connect
from soul_cli.output import console, error_console, print_fields, print_json
from soul_cli.resources import Estimate, Job
from soul_cli.submission import JobRequest, make_body, make_spec
from soul_cli.terminal import escape
from soul_core.formatting import format_bytes, format_duration, format_number


def estimate(
    *,
    model: ModelOption,
    forget: ForgetOption = None,
    retain: RetainOption = None,
    general: GeneralOption = None,
    holdout: HoldoutOption = None,
    datasets: DatasetsOption = None,
    spec: SpecOption = None,
    options: OptionsOption = None,
    retrained: RetrainedOption = None,
    retrained_log: RetrainedLogOption = None,
    retrain_from: RetrainFromOption = None,
    retrain_options: RetrainOptionsOption = None,
    revision: RevisionOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Estimate what a job would cost; run nothing.

    Takes the options of `submit`, and prints whether the job would be accepted (exit code 2 if not). Other kinds of
    job: --option kind=finetune, --option kind=evaluate.
    """
    with connect(url, key, as_json=as_json) as client:
        request = JobRequest(
            model=model,
            revision=revision,
            datasets=collect_datasets(datasets, forget=forget, retain=retain, general=general, holdout=holdout),
            spec=make_spec(spec, options or ()),
            retrained=make_retrained(
                model=retrained, retrain_from=retrain_from, log=retrained_log, retrain_options=retrain_options
            ),
        )
        body = make_body(client, request, say=_say_nothing if as_json else _say)
        try:
            estimated = client.estimate(**body.to_arguments())
        finally:
            body.delete_uploads(client)
    if as_json:
        print_json(estimated)
    else:
        print_fields(_list_estimate(estimated))
        for kind, problems in (("error", estimated.errors), ("warning", estimated.warnings)):
            for problem in problems:
                detail = problem.get("detail", problem) if isinstance(problem, dict) else problem
                console.print(f"{kind}: {escape(str(detail))}")
    raise typer.Exit(int(CliExitCode.OK if estimated.allowed else CliExitCode.BAD_INPUT))


def _list_estimate(estimated: Estimate) -> list[tuple[str, Any]]:
    """Return what an estimate says, in words."""
    flops, output_bytes = estimated.flops, estimated.output_bytes
    return [
        ("accepted", "yes" if estimated.allowed else "no"),
        ("time", _say_range(estimated.seconds, estimated.seconds_interval, format_duration)),
        ("peak memory", _say_range(estimated.peak_memory_bytes, estimated.peak_memory_bytes_interval, format_bytes)),
        ("output", None if output_bytes is None else format_bytes(output_bytes)),
        ("operations", None if flops is None else format_number(flops)),
        ("basis", estimated.basis),
    ]


def _say_range(value: float | None, interval: tuple[float, float] | None, write: Callable[[float], str]) -> str | None:
    """Write a value and its interval: about 5 min 0 s, probably between 4 min 0 s and 7 min 0 s."""
    if value is None:
        return None
    text = f"about {write(value)}"
    return f"{text}, probably between {write(interval[0])} and {write(interval[1])}" if interval else text


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
A row of a dataset is one line of JSON, such as
  {"question": "What is the capital of France?", "answer": "The capital of France is Paris."}

All settings of a spec: `soul methods`, and `soul methods --json` for their schemas.
"""


def submit(
    *,
    model: ModelOption,
    forget: Annotated[
        str,
        typer.Option(
            metavar="FILE|ID", help="Dataset to forget: a file to upload, or a ds_... id.", show_default=False
        ),
    ],
    retain: RetainOption = None,
    general: GeneralOption = None,
    holdout: HoldoutOption = None,
    datasets: DatasetsOption = None,
    spec: SpecOption = None,
    options: OptionsOption = None,
    retrained: RetrainedOption = None,
    retrained_log: RetrainedLogOption = None,
    retrain_from: RetrainFromOption = None,
    retrain_options: RetrainOptionsOption = None,
    revision: RevisionOption = None,
    name: NameOption = None,
    priority: PriorityOption = None,
    deadline: DeadlineOption = None,
    max_gpu_seconds: MaxGpuSecondsOption = None,
    metadata: MetadataOption = None,
    idempotency_key: IdempotencyKeyOption = None,
    wait: WaitOption = False,
    watch: WatchOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit an unlearning job.

    A model or a file that is not registered yet is registered first.
    """
    with connect(url, key, as_json=as_json) as client:
        request = JobRequest(
            model=model,
            revision=revision,
            datasets=collect_datasets(datasets, forget=forget, retain=retain, general=general, holdout=holdout),
            spec=make_spec(spec, options or ()),
            retrained=make_retrained(
                model=retrained, retrain_from=retrain_from, log=retrained_log, retrain_options=retrain_options
            ),
            scheduling=make_scheduling(
                priority=priority, deadline=deadline, max_gpu_seconds=max_gpu_seconds, metadata=metadata
            ),
        )
        register_and_submit(
            client, client.submit, request, name, idempotency_key, wait=wait, watch=watch, as_json=as_json
        )


def finetune(
    *,
    model: ModelOption,
    train: Annotated[
        str,
        typer.Option(metavar="FILE|ID", help="Dataset to learn: a file to upload, or a ds_... id.", show_default=False),
    ],
    general: GeneralOption = None,
    datasets: DatasetsOption = None,
    spec: SpecOption = None,
    options: OptionsOption = None,
    revision: RevisionOption = None,
    name: NameOption = None,
    priority: PriorityOption = None,
    deadline: DeadlineOption = None,
    max_gpu_seconds: MaxGpuSecondsOption = None,
    metadata: MetadataOption = None,
    idempotency_key: IdempotencyKeyOption = None,
    wait: WaitOption = False,
    watch: WatchOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Submit a job that fine-tunes a model on a dataset.

    The optimizer is AdamW unless the spec names another. The model is measured before and after, with a report.
    """
    with connect(url, key, as_json=as_json) as client:
        finetune_spec = make_spec(spec, options or ())
        optimizer = finetune_spec.get("optimizer", {})
        if isinstance(optimizer, dict):
            optimizer = {"kind": "adamw", **optimizer}
        request = JobRequest(
            model=model,
            revision=revision,
            datasets=collect_datasets(datasets, train=train, general=general),
            spec={**finetune_spec, "optimizer": optimizer, "kind": "finetune"},
            scheduling=make_scheduling(
                priority=priority, deadline=deadline, max_gpu_seconds=max_gpu_seconds, metadata=metadata
            ),
        )
        register_and_submit(
            client, client.submit, request, name, idempotency_key, wait=wait, watch=watch, as_json=as_json
        )


def register_and_submit(
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
    """Register inputs, submit the job by `send`, and follow it if the user wants to wait or watch."""
    body = make_body(client, request, say=_say_nothing if as_json else _say)
    try:
        job = send(**body.to_arguments(), name=name, scheduling=request.scheduling, idempotency_key=idempotency_key)
    except SoulError as error:
        if error.status is not None:  # refused; without an answer the job may exist, and need the uploads
            body.delete_uploads(client)
        raise
    if not as_json and job.status == "queued" and job.depends_on_job_id:
        _say(f"retrained model: job {job.depends_on_job_id} trains it; this job waits for it")
    if not as_json:
        for warning in job.warnings:
            _say(f"warning: {warning}")
    if wait or watch:
        if not as_json:
            console.print(f"Job {job.id} submitted")
        follow_and_exit(client, job.id, live=watch and not as_json, as_json=as_json)
    show_job(job, as_json=as_json)
    if not as_json:
        console.print(f"\n  soul watch {job.id}    follow it")


def _say_nothing(_text: str) -> None:
    """Print nothing: with --json, stderr holds only errors."""


def _say(text: str) -> None:
    # On stderr: stdout holds the result.
    error_console.print(escape(text), style="dim", soft_wrap=True)
