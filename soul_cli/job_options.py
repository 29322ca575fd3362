"""Options of the commands that make jobs, typer's way, and what they mean together."""

from pathlib import Path
from typing import Annotated, Any

import typer

from soul_cli.errors import BadInput
from soul_cli.submission import parse_assignments, parse_sets

ModelOption = Annotated[
    str,
    typer.Option(
        help="mdl_... id, or a folder, GGUF file, hub id (owner/name) or job_... to register.", show_default=False
    ),
]
ForgetOption = Annotated[
    str | None, typer.Option(help="What to forget: a file to upload, or a ds_... id.", show_default=False)
]
RetainOption = Annotated[str | None, typer.Option(help="What must stay: a file or a ds_... id.", show_default=False)]
GeneralOption = Annotated[
    str | None,
    typer.Option(help="Plain text for general utility (perplexity): a file or a ds_... id.", show_default=False),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--dataset", metavar="NAME=FILE", help="A further set, measured only: --dataset neighbors=n.jsonl"),
]
SpecOption = Annotated[Path | None, typer.Option(help="The spec, as a JSON file; defaults where it is silent.")]
OverrideOption = Annotated[
    list[str] | None,
    typer.Option("--option", metavar="KEY=VALUE", help="One setting over the spec: --option training.steps=30"),
]
RevisionOption = Annotated[str | None, typer.Option(help="Hub models: branch, tag or commit; it is pinned.")]
NameOption = Annotated[str | None, typer.Option(help="A name for lists.")]
IdempotencyOption = Annotated[
    str | None, typer.Option(help="Your own key: submitting again with it finds the same job. Made if not given.")
]
WaitOption = Annotated[bool, typer.Option("--wait", help="Return when the job has finished, with its exit code.")]
WatchOption = Annotated[bool, typer.Option("--watch", help="The same, with a live view.")]
HoldoutOption = Annotated[
    str | None,
    typer.Option(help="Rows like the forget set's that no model saw, for membership inference.", show_default=False),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(help="The model retrained without the forget set, to compare with.", show_default=False),
]
RetrainOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="Retrain it first, from this model, which never saw the forget set, on the retain set.",
        show_default=False,
    ),
]
LogOption = Annotated[
    str | None,
    typer.Option(
        metavar="JOB|ARTIFACT",
        help="What an earlier job measured of it: job_..., or art_... of a logs/NAME.json.",
        show_default=False,
    ),
]
RetrainingOption = Annotated[
    list[str] | None,
    typer.Option(
        "--retrain-option",
        metavar="KEY=VALUE",
        help="One setting of it: --retrain-option training.epochs=5",
    ),
]


def collect_sets(extra_sets: list[str] | None, **named: str | None) -> dict[str, str]:
    """Return set name -> file or id, of the options with a name of their own and of --dataset."""
    given = {name: value for name, value in named.items() if value}
    for name, value in parse_sets(extra_sets or ()).items():
        if name in given:
            raise BadInput(f"--dataset {name}=...: there is a {name} set already")
        given[name] = value
    return given


def make_reference(
    model: str | None, retrain: str | None, log: str | None, settings: list[str] | None
) -> dict[str, Any] | None:
    """Return `reference` of a job's body with what was typed in the places of ids; None where nothing was."""
    given = [name for name, value in (("--retrained", model), ("--retrain-from", retrain)) if value]
    given += ["--retrained-log"] if log else []
    if len(given) > 1:
        raise BadInput(f"there is one reference: give {' or '.join(given)}, not both")
    if settings and not retrain:
        raise BadInput("--retrain-option needs --retrain-from")
    if retrain:
        return {"kind": "retrain", "model_id": retrain, **parse_assignments(settings or ())}
    if log:
        return {"kind": "log", "artifact_id" if log.startswith("art_") else "job_id": log}
    return {"kind": "model", "model_id": model} if model else None
