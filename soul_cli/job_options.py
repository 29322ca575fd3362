"""Options of the commands that submit jobs, and what they mean together."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from soul_cli.errors import BadInput
from soul_cli.submission import apply_options, parse_pairs

_FILE_OR_ID = "FILE|ID"

ModelOption = Annotated[
    str,
    typer.Option(
        metavar="MODEL",
        help="An mdl_... id, or a model to register: a folder, a GGUF file, a hub id (owner/name) or a job_... id.",
        show_default=False,
    ),
]
ForgetOption = Annotated[
    str | None,
    typer.Option(metavar=_FILE_OR_ID, help="Dataset to forget: a file to upload, or a ds_... id.", show_default=False),
]
RetainOption = Annotated[
    str | None,
    typer.Option(
        metavar=_FILE_OR_ID, help="Dataset that the model must not lose: a file or a ds_... id.", show_default=False
    ),
]
GeneralOption = Annotated[
    str | None,
    typer.Option(
        metavar=_FILE_OR_ID,
        help="Plain text that measures general utility (perplexity): a file or a ds_... id.",
        show_default=False,
    ),
]
HoldoutOption = Annotated[
    str | None,
    typer.Option(
        metavar=_FILE_OR_ID,
        help="Rows like the forget set's that no model has seen, for membership inference: a file or a ds_... id.",
        show_default=False,
    ),
]
DatasetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--dataset",
        metavar="NAME=FILE",
        help="A further dataset, only measured: --dataset neighbors=n.jsonl. Repeatable.",
        show_default=False,
    ),
]
SpecOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Job spec, a JSON file; the server fills in what it does not set.", show_default=False
    ),
]
OptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="KEY=VALUE",
        help="One setting of the spec, over --spec: --option training.steps=30. Repeatable.",
        show_default=False,
    ),
]
RetrainedOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL", help="The model retrained without the forget set, to compare with.", show_default=False
    ),
]
RetrainedLogOption = Annotated[
    str | None,
    typer.Option(
        metavar="JOB|ARTIFACT",
        help="Measurements of the retrained model by an earlier job: job_..., or the art_... id of its logs/NAME.json.",
        show_default=False,
    ),
]
RetrainFromOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Make the retrained model first: from this model, which never saw the forget set, on the retain set.",
        show_default=False,
    ),
]
RetrainOptionsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--retrain-option",
        metavar="KEY=VALUE",
        help="One setting of the retraining: --retrain-option training.epochs=5. Repeatable.",
        show_default=False,
    ),
]
RevisionOption = Annotated[
    str | None,
    typer.Option(metavar="REVISION", help="Branch, tag or commit of a hub model; it is pinned.", show_default=False),
]
NameOption = Annotated[str | None, typer.Option(metavar="NAME", help="A name for lists.", show_default=False)]
IdempotencyKeyOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="Submitting again with this key returns the same job. Default: a new key.",
        show_default=False,
    ),
]
PriorityOption = Annotated[
    Literal["low", "normal", "high"] | None,
    typer.Option(help="Jobs of a higher priority run first.", show_default="normal"),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="The job fails if it has not finished by then: 2027-01-31T18:00, in local time, or with a UTC offset.",
        show_default=False,
    ),
]
MaxGpuSecondsOption = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS", help="The job fails after it has occupied a worker for this long.", show_default=False
    ),
]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY=VALUE", help="Metadata, for filters of lists. Repeatable.", show_default=False),
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Wait until the job has finished, and exit with its code.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="The same, with a live view.")]


def collect_datasets(extra_datasets: list[str] | None, **named_datasets: str | None) -> dict[str, str]:
    """Return dataset name -> file or id, from the options with a name of their own and from --dataset."""
    datasets = {name: value for name, value in named_datasets.items() if value}
    for name, value in parse_pairs(extra_datasets or (), option="--dataset").items():
        if name in datasets:
            raise BadInput(f"--dataset {name}=...: the dataset {name} is already given by --{name}")
        datasets[name] = value
    return datasets


def make_retrained(
    *,
    model: str | None = None,
    retrain_from: str | None = None,
    log: str | None = None,
    retrain_options: list[str] | None = None,
) -> dict[str, Any] | None:
    """Return `retrained` of a job's body, with models as typed instead of ids; None without any of these options."""
    values = {"--retrained": model, "--retrain-from": retrain_from, "--retrained-log": log}
    given = [option for option, value in values.items() if value]
    if len(given) > 1:
        raise BadInput(f"a job has one retrained model: give {' or '.join(given)}, not both")
    if retrain_options and not retrain_from:
        raise BadInput("--retrain-option needs --retrain-from")
    if retrain_from:
        settings = apply_options({}, retrain_options or (), option="--retrain-option")
        return {"kind": "retrain", "model_id": retrain_from, **settings}
    if log:
        return {"kind": "log", "artifact_id" if log.startswith("art_") else "job_id": log}
    return {"kind": "model", "model_id": model} if model else None


def make_scheduling(
    *,
    priority: str | None = None,
    deadline: str | None = None,
    max_gpu_seconds: float | None = None,
    metadata: list[str] | None = None,
) -> dict[str, Any]:
    """Return the fields of a job's body that these options set."""
    fields: dict[str, Any] = {"priority": priority, "max_gpu_seconds": max_gpu_seconds}
    fields["deadline"] = None if deadline is None else parse_time(deadline, option="--deadline")
    fields["metadata"] = parse_pairs(metadata or (), option="--metadata") or None
    return {name: value for name, value in fields.items() if value is not None}


def parse_time(text: str, *, option: str) -> str:
    """Return a time as the service reads it; without a UTC offset it is local."""
    try:
        return datetime.fromisoformat(text).astimezone().isoformat()
    except (ValueError, OverflowError, OSError) as error:
        raise BadInput(
            f"{option} expects a time such as 2027-01-31T18:00 or 2027-01-31T18:00+01:00, not {text!r}"
        ) from error
