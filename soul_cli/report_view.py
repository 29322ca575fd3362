"""A report on the terminal: the verdict, the metrics of every model side by side, the attacks, and some answers."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from soul_cli.output import style_value
from soul_core.formatting import format_decimal

NUM_EXAMPLES = 12
#: What each model of a report is called here, in the order of the columns; others go by their own names.
MODEL_TITLES = {
    "base": "before",
    "unlearned": "after",
    "finetuned": "after",
    "evaluated": "the model",
    "retrained": "retrained",
}
#: What of an attack is worth a line here; the rest is in the JSON and on the page.
ATTACK_METRICS = ("probability", "rouge_l", "keyword_recall", "verbatim_memorization", "toxicity")


def print_report(
    report: dict[str, Any],
    console: Console,
    *,
    num_examples: int = NUM_EXAMPLES,
    metrics: tuple[str, ...] | None = None,
) -> None:
    """Print a report (the JSON of soul_core.report.Report) for a person; only some metrics where they are named."""
    console.print(make_metrics_table(report, metrics))
    console.print()
    if report.get("attacks"):
        console.print(make_attacks_table(report, metrics or ATTACK_METRICS))
        for line in format_findings(report):
            console.print(escape(line), soft_wrap=True)
        console.print()
    if report.get("examples") and num_examples:
        console.print(make_answers_table(report, num_examples=num_examples))
        console.print()
    if report["criteria"]:
        console.print(make_criteria_table(report))
    console.print(f"Verdict: {style_value(report['verdict'])}. {escape(report['verdict_reason'])}", soft_wrap=True)


def make_metrics_table(report: dict[str, Any], only: tuple[str, ...] | None = None) -> Table:
    """Return set by set and metric by metric: before, after (with its interval), retrained, others."""
    models, judged = list_models(report), get_judged_model(report)
    table = _table("Measured before and after" if "base" in models else "Measured", "set", "metric")
    for name in models:
        table.add_column(escape(MODEL_TITLES.get(name, name)), justify="right")
        if name == judged:
            table.add_column(_level(report), justify="right")
    last = None
    for set_name, metric in _rows({name: report["models"][name]["sets"] for name in models}):
        if only is not None and metric not in only:
            continue
        values = {name: report["models"][name]["sets"].get(set_name, {}).get(metric, {}) for name in models}
        if all(value.get("value") is None for value in values.values()):
            continue
        cells = []
        for name, value in values.items():
            cells.append(_format_value(value.get("value")))
            if name == judged:
                cells.append(" to ".join(map(format_decimal, value.get("interval") or ())))
        table.add_row(escape(set_name) if set_name != last else "", escape(metric), *cells)
        last = set_name
    return table


def make_attacks_table(report: dict[str, Any], only: tuple[str, ...] | None = None) -> Table:
    """Return attack by attack what each model gave away, on the same rows without and under it."""
    models = list_models(report)
    table = _table("Attacks: without → under, on the same rows", "attack", "set", "metric")
    for name in models:
        table.add_column(escape(MODEL_TITLES.get(name, name)), justify="right")
    for attack in report["attacks"]:
        label = escape(attack["label"])
        if attack.get("absent_reason"):
            table.add_row(label, "", escape(f"not run: {attack['absent_reason']}"), *("" for _ in models))
            continue
        for set_name, metric in _rows(attack["attacked"]):
            if only is not None and metric not in only:
                continue
            cells = [_attacked(attack, name, set_name, metric) for name in models]
            if any(cells):
                table.add_row(label, escape(set_name), escape(metric), *(cell or "-" for cell in cells))
                label = ""
    return table


def format_findings(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each list of rows that an attack points at."""
    for attack in report["attacks"]:
        for finding in attack.get("findings", []):
            rows = ", ".join(f"{row['set']} {row['row']}" for row in finding["rows"])
            yield f"{attack['label']}: {finding['title']}: {rows or 'none'}"


def make_answers_table(report: dict[str, Any], *, num_examples: int) -> Table:
    """Return questions with the greedy answers of the models, taken from each set in turn."""
    models = [name for name in list_models(report) if any(name in each["answers"] for each in report["examples"])]
    table = _table("Answers before and after" if "base" in models else "Answers", "set")
    for name in ("question", *(MODEL_TITLES.get(name, name) for name in models)):
        table.add_column(escape(name), ratio=1)
    for example in _in_turn(report["examples"], num_examples):
        cells = (example["set"], example["prompt"], *(example["answers"].get(name, "-") for name in models))
        table.add_row(*(escape(join_lines(cell)) for cell in cells))
    return table


def make_criteria_table(report: dict[str, Any]) -> Table:
    """Return every criterion and how it came out."""
    table = _table("Criteria", show_header=False)
    for result in report["criteria"]:
        criterion = result["criterion"]
        under = f" under {criterion['attack']}" if criterion.get("attack") else ""
        what = f"{criterion['set']} {criterion['metric']}{under}"
        table.add_row(style_value(result["outcome"]), escape(what), escape(result["reason"]))
    return table


def list_models(report: dict[str, Any]) -> list[str]:
    """Return the models of a report in the order of the columns."""
    known = [name for name in MODEL_TITLES if name in report["models"]]
    return known + [name for name in report["models"] if name not in known]


def get_judged_model(report: dict[str, Any]) -> str:
    """Return the model the verdict is about."""
    from soul_core.spec import (
        JUDGED_MODEL,  # the spec's classes cost a tenth of a second, and most commands show no report
    )

    return JUDGED_MODEL[report["spec"]["kind"]]


def join_lines(text: str) -> str:
    """Put a text on one line."""
    return " ".join(text.split())


def _table(title: str, *columns: str, show_header: bool = True) -> Table:
    table = Table(
        title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, show_header=show_header
    )
    for name in columns:
        table.add_column(name)
    return table


def _rows(models: dict[str, dict[str, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Yield each (set, metric) that any model has, in the order they come."""
    seen: dict[str, dict[str, None]] = {}
    for sets in models.values():
        for set_name, metrics in sets.items():
            for metric in metrics:
                seen.setdefault(set_name, {})[metric] = None
    for set_name, names in seen.items():
        for metric in names:
            yield set_name, metric


def _attacked(attack: dict[str, Any], model: str, set_name: str, metric: str) -> str:
    def value(where: str) -> float | None:
        found: float | None = attack[where].get(model, {}).get(set_name, {}).get(metric, {}).get("value")
        return found

    under = value("attacked")
    return "" if under is None else f"{_format_value(value('baseline'))} → {_format_value(under)}"


def _format_value(value: float | None) -> str:
    return "-" if value is None else format_decimal(value)


def _level(report: dict[str, Any]) -> str:
    confidence = report.get("spec", {}).get("evaluation", {}).get("confidence", 0.95)
    return f"{confidence:.0%} interval"


def _in_turn(examples: list[dict[str, Any]], num_examples: int) -> list[dict[str, Any]]:
    by_set: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        by_set.setdefault(example["set"], []).append(example)
    share = max(1, num_examples // max(1, len(by_set)))
    return [example for group in by_set.values() for example in group[:share]]
