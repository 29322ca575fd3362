"""Prints a report on the terminal: verdict, metrics of all models side by side, attacks, and some answers."""

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.table import Table

from soul_cli.output import style_value
from soul_cli.terminal import escape
from soul_core.formatting import format_decimal

NUM_EXAMPLES = 12
#: Titles of a report's models, in the order of the columns; other models keep their own names.
MODEL_TITLES = {
    "base": "before",
    "unlearned": "after",
    "finetuned": "after",
    "evaluated": "the model",
    "retrained": "retrained",
}
#: Metrics of an attack that are shown; all of them are in the JSON and on the page.
ATTACK_METRICS = ("probability", "rouge_l", "keyword_recall", "verbatim_memorization", "toxicity")


def print_report(
    report: dict[str, Any],
    console: Console,
    *,
    num_examples: int = NUM_EXAMPLES,
    metrics: tuple[str, ...] | None = None,
) -> None:
    """Print a report (the JSON of soul_core.report.Report), with all metrics or only the named ones."""
    console.print(make_metrics_table(report, metrics))
    for line in format_leaks(report):
        console.print(escape(line), soft_wrap=True)
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
    """Return one row per set and metric: before, after (with its interval), retrained, other models."""
    models, judged = list_models(report), get_judged_model(report)
    confidence = report.get("spec", {}).get("evaluation", {}).get("confidence", 0.95)
    table = _make_table("Measured before and after" if "base" in models else "Measured", "set", "metric")
    for name in models:
        table.add_column(escape(MODEL_TITLES.get(name, name)), justify="right")
        if name == judged:
            table.add_column(f"{confidence:.0%} interval", justify="right")
    last_set = None
    for set_name, metric in _list_metrics({name: report["models"][name]["sets"] for name in models}):
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
        table.add_row(escape(set_name) if set_name != last_set else "", escape(metric), *cells)
        last_set = set_name
    return table


def make_attacks_table(report: dict[str, Any], only: tuple[str, ...] | None = None) -> Table:
    """Return each model's values per attack and metric, without the attack and under it, on the same rows."""
    models = list_models(report)
    table = _make_table("Attacks: without → under, on the same rows", "attack", "set", "metric")
    for name in models:
        table.add_column(escape(MODEL_TITLES.get(name, name)), justify="right")
    for attack in report["attacks"]:
        label = escape(attack["label"])
        if attack.get("absent_reason"):
            table.add_row(label, "", escape(f"not run: {attack['absent_reason']}"), *("" for _ in models))
            continue
        for set_name, metric in _list_metrics(attack["attacked"]):
            if only is not None and metric not in only:
                continue
            cells = [_format_attack_effect(attack, name, set_name, metric) for name in models]
            if any(cells):
                table.add_row(label, escape(set_name), escape(metric), *(cell or "-" for cell in cells))
                label = ""
    return table


def format_findings(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each list of rows that an attack found."""
    for attack in report["attacks"]:
        for finding in attack.get("findings", []):
            rows = ", ".join(f"{row['set']} {row['row']}" for row in finding["rows"])
            yield f"{attack['label']}: {finding['title']}: {rows or 'none'}"


def format_leaks(report: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each forget set and model: what its sampled answers reveal, and the worst row."""
    for name in list_models(report):
        for set_name, leaks in report["models"][name].get("leaks", {}).items():
            by_temperature = ", ".join(
                f"{_format_value(of_temperature['leak_at'].get(str(leaks['k'])))} at temperature "
                f"{of_temperature['temperature']:g}"
                for of_temperature in leaks["temperatures"]
            )
            num_samples = leaks["num_samples"] * len(leaks["temperatures"])
            yield (
                f"Sampled answers, {set_name} set, {MODEL_TITLES.get(name, name)}: leak at {leaks['k']} is "
                f"{by_temperature}; {leaks['worst_row_leaks']} of {num_samples} samples of the worst row, "
                f"{leaks['worst_row']}, state the fact"
            )


def make_answers_table(report: dict[str, Any], *, num_examples: int) -> Table:
    """Return questions with the models' greedy answers, the same number from each set."""
    examples = report["examples"]
    models = [name for name in list_models(report) if any(name in example["answers"] for example in examples)]
    table = _make_table("Answers before and after" if "base" in models else "Answers", "set")
    for title in ("question", *(MODEL_TITLES.get(name, name) for name in models)):
        table.add_column(escape(title), ratio=1)
    for example in _select_examples(examples, num_examples):
        cells = (example["set"], example["prompt"], *(example["answers"].get(name, "-") for name in models))
        table.add_row(*(escape(" ".join(cell.split())) for cell in cells))
    return table


def make_criteria_table(report: dict[str, Any]) -> Table:
    """Return every criterion with its outcome and the reason."""
    table = _make_table("Criteria", show_header=False)
    for result in report["criteria"]:
        criterion = result["criterion"]
        under = f" under {criterion['attack']}" if criterion.get("attack") else ""
        title = f"{criterion['set']} {criterion['metric']}{under}"
        table.add_row(style_value(result["outcome"]), escape(title), escape(result["reason"]))
    return table


def list_models(report: dict[str, Any]) -> list[str]:
    """Return the models of a report in the order of the columns."""
    known = [name for name in MODEL_TITLES if name in report["models"]]
    return known + [name for name in report["models"] if name not in known]


def get_judged_model(report: dict[str, Any]) -> str:
    """Return the model that the verdict judges."""
    from soul_core.spec import JUDGED_MODEL  # takes 0.1 s to import, and most commands show no report

    return JUDGED_MODEL[report["spec"]["kind"]]


def _make_table(title: str, *columns: str, show_header: bool = True) -> Table:
    table = Table(
        title=title, title_justify="left", box=None, header_style="bold", pad_edge=False, show_header=show_header
    )
    for name in columns:
        table.add_column(name)
    return table


def _list_metrics(models: dict[str, dict[str, dict[str, Any]]]) -> Iterator[tuple[str, str]]:
    """Yield each (set, metric) that any model has, set by set, in the order of the report."""
    metrics_by_set: dict[str, dict[str, None]] = {}
    for sets in models.values():
        for set_name, metrics in sets.items():
            metrics_by_set.setdefault(set_name, {}).update(dict.fromkeys(metrics))
    for set_name, names in metrics_by_set.items():
        for metric in names:
            yield set_name, metric


def _format_attack_effect(attack: dict[str, Any], model: str, set_name: str, metric: str) -> str:
    """Format a value without the attack and under it; empty where it was not measured under it."""
    baseline, attacked = (
        attack[part].get(model, {}).get(set_name, {}).get(metric, {}).get("value") for part in ("baseline", "attacked")
    )
    return "" if attacked is None else f"{_format_value(baseline)} → {_format_value(attacked)}"


def _format_value(value: float | None) -> str:
    return "-" if value is None else format_decimal(value)


def _select_examples(examples: list[dict[str, Any]], num_examples: int) -> list[dict[str, Any]]:
    examples_by_set: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        examples_by_set.setdefault(example["set"], []).append(example)
    num_per_set = max(1, num_examples // max(1, len(examples_by_set)))
    return [example for group in examples_by_set.values() for example in group[:num_per_set]]
