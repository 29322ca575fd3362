"""`soul tofu`: published evaluations: scores and writes TOFU's logs, computes MUSE's six criteria from reports."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from soul_cli.errors import BadInput
from soul_cli.options import JsonOption
from soul_cli.output import console, print_table

tofu = typer.Typer(help="Compare with published evaluations: TOFU's logs, MUSE's six criteria.", no_args_is_help=True)

_MEANINGS = {
    "forget_quality": "p-value against the retain model; above 0.05: no difference is detected",
    "model_utility": "of the unlearned model",
    "retain_model_utility": "of the retain model",
    "privleak": "percent; 0: as the retain model, -100: members are recognized",
}

#: What shows that both logs are of the same rows.
_ROWS = {
    "content": "Both logs are of the same forget and holdout rows: their keyed digests are equal.",
    "texts": "Both logs are of the same forget rows: their answers are equal. The holdout rows may differ.",
    "position": "Both logs may be of different rows: they have neither comparable digests nor texts.",
}


@tofu.command("score")
def score_tofu_logs(
    unlearned: Annotated[
        Path,
        typer.Argument(
            metavar="UNLEARNED", help="Log of the unlearned model (.json or .json.gz), or a report of SOUL."
        ),
    ],
    retain: Annotated[
        Path, typer.Argument(metavar="RETAIN", help="Log of the model retrained without the forget set.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Score an unlearned model from two logs.

    Recomputes forget quality, model utility and PrivLeak from the logs' per-example values.
    """
    with _bad_input():
        from soul_core.evaluation.tofu_logs import check_same_rows, read_tofu_log, score_logs

        logs = read_tofu_log(unlearned), read_tofu_log(retain)
        matched_by = check_same_rows(*logs)
        scores = score_logs(*logs).as_dict()
    if as_json:
        console.print_json(json.dumps({**scores, "rows_matched_by": matched_by}))
        return
    rows = [(name, f"{score:.6g}", _MEANINGS[name]) for name, score in scores.items()]
    print_table(["metric", "value", "meaning"], rows)
    console.print(_ROWS[matched_by])


@tofu.command("write")
def write_tofu_log(
    report: Annotated[
        Path,
        typer.Argument(metavar="REPORT", help="Report of SOUL (JSON), with the datasets that TOFU measures."),
    ],
    log: Annotated[Path, typer.Argument(metavar="LOG", help="The log to write (.json or .json.gz).")],
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Model of the report.", show_default="the one that the verdict judges")
    ] = "",
) -> None:
    """Write a model's measurements as a TOFU evaluation log."""
    with _bad_input():
        from soul_core.errors import BadData
        from soul_core.evaluation.tofu_format import make_tofu_log
        from soul_core.evaluation.tofu_logs import read_report
        from soul_core.evaluation.tofu_logs import write_tofu_log as write_log
        from soul_core.spec import JUDGED_MODEL

        content = read_report(report)
        name = model or JUDGED_MODEL[content.spec.kind]
        if name not in content.models:
            raise BadData(f"{report} has no model '{name}'; it has {', '.join(content.models)}")
        write_log(make_tofu_log(content.models[name]), log)
    console.print(f"{log}: the {name} model of {report}")


@tofu.command("muse")
def show_muse(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT", help="Reports of SOUL (JSON), in the order of the requests.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Compute MUSE's six criteria of unlearning from reports."""
    with _bad_input():
        from soul_core.evaluation.muse import compute_muse_scores
        from soul_core.evaluation.tofu_logs import read_report

        scores = compute_muse_scores([read_report(path) for path in reports])
    if as_json:
        console.print_json(json.dumps([score.as_dict() for score in scores]))
        return
    rows = [
        (score.name, "absent" if score.value is None else f"{score.value:.4g}", score.absent_reason or score.meaning)
        for score in scores
    ]
    print_table(["criterion", "value", "meaning"], rows)


@contextmanager
def _bad_input() -> Iterator[None]:
    """Turn the engine's BadData into the command's error. Imports are local, so that `soul` starts fast."""
    from soul_core.errors import BadData

    try:
        yield
    except BadData as error:
        raise BadInput("; ".join([error.message, *error.details])) from error
