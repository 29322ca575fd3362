"""`soul logs`: evaluations as others write them: TOFU's logs scored and written, MUSE's six ways read off reports."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from soul_cli.errors import BadInput
from soul_cli.options import JsonOption
from soul_cli.output import console, print_table

logs = typer.Typer(help="Compare with published evaluations: TOFU logs, MUSE's six ways.", no_args_is_help=True)

_MEANINGS = {
    "forget_quality": "p-value against the retain model; above 0.05: not told apart",
    "model_utility": "of the unlearned model",
    "retain_model_utility": "of the retain model",
    "privleak": "percent; 0: like the retain model, -100: members show",
}

#: How it is known that both logs are of the same rows.
_ROWS = {
    "content": "Both logs are of the same forget and holdout rows: their keyed digests are equal.",
    "texts": "Both logs are of the same forget rows: their answers are equal. Of the holdout rows nothing is known.",
    "position": "Whether both logs are of the same rows is not known: they have neither comparable digests nor texts.",
}


@logs.command("score")
def score(
    unlearned: Annotated[Path, typer.Argument(help="Log of the unlearned model (.json or .json.gz), or our report.")],
    retain: Annotated[Path, typer.Argument(help="Log of the model retrained without the forget set.")],
    as_json: JsonOption = False,
) -> None:
    """Recompute forget quality, model utility and PrivLeak from the per-example values of two logs."""
    with _bad_input():
        from soul_core.evaluation.tofu_logs import check_same_rows, read_tofu_log, score_logs

        logs_of = read_tofu_log(unlearned), read_tofu_log(retain)
        matched_by = check_same_rows(*logs_of)
        found = score_logs(*logs_of).as_dict()
    if as_json:
        console.print_json(json.dumps({**found, "rows_matched_by": matched_by}))
        return
    print_table(["metric", "value", "what it is"], [(name, f"{found[name]:.6g}", _MEANINGS[name]) for name in found])
    console.print(_ROWS[matched_by])


@logs.command("write")
def write(
    report: Annotated[Path, typer.Argument(help="Report of ours (JSON), with the sets that TOFU measures.")],
    log: Annotated[Path, typer.Argument(help="The log to write (.json or .json.gz).")],
    model: Annotated[str, typer.Option(help="Model of the report; default: the one it judges.")] = "",
) -> None:
    """Write a model's measurements as a TOFU evaluation log."""
    with _bad_input():
        from soul_core.errors import BadData
        from soul_core.evaluation.tofu_format import make_tofu_log
        from soul_core.evaluation.tofu_logs import read_report, write_tofu_log
        from soul_core.spec import JUDGED_MODEL

        read = read_report(report)
        name = model or JUDGED_MODEL[read.spec.kind]
        if name not in read.models:
            raise BadData(f"{report} has no model '{name}'; it has {', '.join(read.models)}")
        write_tofu_log(make_tofu_log(read.models[name]), log)
    console.print(f"{log}: the {name} model of {report}")


@logs.command("muse")
def show_muse(
    reports: Annotated[list[Path], typer.Argument(help="Reports of ours (JSON), in the order of the requests.")],
    as_json: JsonOption = False,
) -> None:
    """Read MUSE's six ways of looking at unlearning off one report or several."""
    with _bad_input():
        from soul_core.evaluation.muse import compute_muse_scores
        from soul_core.evaluation.tofu_logs import read_report

        found = compute_muse_scores([read_report(path) for path in reports])
    if as_json:
        console.print_json(json.dumps([way.as_dict() for way in found]))
        return
    rows = [
        (way.name, "absent" if way.value is None else f"{way.value:.4g}", way.absent_reason or way.meaning)
        for way in found
    ]
    print_table(["way", "value", "what it is"], rows)


@contextmanager
def _bad_input() -> Iterator[None]:
    """Imports inside: `soul` starts fast without numpy and scipy."""
    from soul_core.errors import BadData

    try:
        yield
    except BadData as error:
        raise BadInput("; ".join([error.message, *error.details])) from error
