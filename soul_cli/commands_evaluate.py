"""`soul evaluate`: measures models without changing them."""

from typing import Annotated, Any

import typer

from soul_cli.commands_submit import register_and_submit
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
    RevisionOption,
    SpecOption,
    WaitOption,
    WatchOption,
    collect_datasets,
    make_retrained,
    make_scheduling,
)
from soul_cli.options import JsonOption, KeyOption, UrlOption, connect
from soul_cli.submission import JobRequest, make_spec, parse_pairs

EVALUATE_EXAMPLE = """\
Before and after, side by side, on any dataset:

\b
  soul evaluate --model job_... --compare before=./SmolLM2-135M-Instruct \\
    --dataset capitals=examples/neighbors.jsonl --metrics probability,rouge_l \\
    --attacks none --watch
"""


def evaluate(
    *,
    model: ModelOption,
    compare: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="A further model to measure. Repeatable.", show_default=False),
    ] = None,
    datasets: DatasetsOption = None,
    forget: ForgetOption = None,
    retain: RetainOption = None,
    general: GeneralOption = None,
    holdout: HoldoutOption = None,
    metrics: Annotated[
        str | None,
        typer.Option(metavar="NAMES", help="Metrics of `soul methods`, separated by commas.", show_default=False),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS",
            help="Attacks of `soul methods`, separated by commas; none: no attack.",
            show_default="the cheap ones",
        ),
    ] = None,
    spec: SpecOption = None,
    options: OptionsOption = None,
    retrained: RetrainedOption = None,
    retrained_log: RetrainedLogOption = None,
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
    """Submit a job that measures models, changing none.

    Any models, on any datasets, with any metrics and attacks.
    """
    with connect(url, key, as_json=as_json) as client:
        request = JobRequest(
            model=model,
            revision=revision,
            models=parse_pairs(compare or (), option="--compare"),
            datasets=collect_datasets(datasets, forget=forget, retain=retain, general=general, holdout=holdout),
            spec=_add_metrics_and_attacks(make_spec(spec, options or ()), metrics, attacks),
            retrained=make_retrained(model=retrained, log=retrained_log),
            scheduling=make_scheduling(
                priority=priority, deadline=deadline, max_gpu_seconds=max_gpu_seconds, metadata=metadata
            ),
        )
        register_and_submit(
            client, client.evaluate, request, name, idempotency_key, wait=wait, watch=watch, as_json=as_json
        )


def _add_metrics_and_attacks(spec: dict[str, Any], metrics: str | None, attacks: str | None) -> dict[str, Any]:
    if metrics is not None:
        spec = {**spec, "evaluation": {**spec.get("evaluation", {}), "metrics": _split(metrics)}}
    if attacks is not None:
        kinds = [] if attacks == "none" else _split(attacks)
        spec = {**spec, "attacks": [{"kind": kind} for kind in kinds]}
    return spec


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
