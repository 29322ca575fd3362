"""`soul evaluate`: an audit of models, without changing any."""

from typing import Annotated, Any

import typer

from soul_cli.commands_submit import register_and_send
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
    RevisionOption,
    SetOption,
    SpecOption,
    WaitOption,
    WatchOption,
    collect_sets,
    make_reference,
)
from soul_cli.options import JsonOption, KeyOption, UrlOption, connect
from soul_cli.submission import JobRequest, make_spec, parse_sets

EVALUATE_EXAMPLE = """\
Before and after, side by side, on any data:

\b
  soul evaluate --model job_... --compare before=./SmolLM2-135M-Instruct \\
    --dataset capitals=examples/neighbors.jsonl --metrics probability,rouge_l \\
    --attacks none --watch
"""


def evaluate(
    *,
    model: ModelOption,
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=MODEL", help="A model measured beside it; may be repeated.", show_default=False),
    ] = None,
    sets: SetOption = None,
    forget: ForgetOption = None,
    retain: RetainOption = None,
    general: GeneralOption = None,
    holdout: HoldoutOption = None,
    metrics: Annotated[
        str | None, typer.Option(help="Names from `soul methods`, with commas.", show_default=False)
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(help="Kinds from `soul methods`, with commas; none: no attack.", show_default="cheap ones"),
    ] = None,
    spec: SpecOption = None,
    option: OverrideOption = None,
    retrained: ReferenceOption = None,
    retrained_log: LogOption = None,
    revision: RevisionOption = None,
    name: NameOption = None,
    idempotency_key: IdempotencyOption = None,
    wait: WaitOption = False,
    watch: WatchOption = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Audit a model, and others beside it, on any data sets with any metrics and attacks. Nothing is changed."""
    with connect(url, key, as_json=as_json) as client:
        wanted = JobRequest(
            model=model,
            revision=revision,
            models=parse_sets(also or (), option="--compare"),
            sets=collect_sets(sets, forget=forget, retain=retain, general=general, holdout=holdout),
            spec=_audit_spec(make_spec(spec, option or ()), metrics, attacks),
            retrained=make_reference(retrained, None, retrained_log, None),
        )
        register_and_send(
            client, client.evaluate, wanted, name, idempotency_key, wait=wait, watch=watch, as_json=as_json
        )


def _audit_spec(spec: dict[str, Any], metrics: str | None, attacks: str | None) -> dict[str, Any]:
    if metrics is not None:
        spec = {**spec, "evaluation": {**spec.get("evaluation", {}), "metrics": _split(metrics)}}
    if attacks is not None:
        kinds = [] if attacks == "none" else _split(attacks)
        spec = {**spec, "attacks": [{"kind": kind} for kind in kinds]}
    return spec


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]
