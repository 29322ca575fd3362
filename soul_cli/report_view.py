"""A report on the terminal: the verdict, the metrics before and after, and some answers side by side."""

from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from soul_cli.output import styled

NUM_EXAMPLES = 12


def print_report(
    report: dict[str, Any],
    console: Console,
    *,
    num_examples: int = NUM_EXAMPLES,
    metrics: tuple[str, ...] | None = None,
) -> None:
    """Print a report (the JSON of soul_core.report.Report) for a person; only some metrics where they are named."""
    console.print(metrics_table(report, metrics))
    console.print()
    if report.get("examples") and num_examples:
        console.print(answers_table(report, num_examples=num_examples))
        console.print()
    console.print(criteria_table(report))
    console.print(f"Verdict: {styled(report['verdict'])}. {escape(report['verdict_reason'])}", soft_wrap=True)


def metrics_table(report: dict[str, Any], only: tuple[str, ...] | None = None) -> Table:
    """Return set by set and metric by metric: before, after."""
    before, after = report["models"]["base"]["sets"], report["models"]["unlearned"]["sets"]
    table = Table(
        title="Measured before and after", title_justify="left", box=None, header_style="bold", pad_edge=False
    )
    table.add_column("set")
    table.add_column("metric")
    for name in ("before", "after", _level(report)):
        table.add_column(name, justify="right")
    last = None
    for set_name, metrics in before.items():
        for metric, value in metrics.items():
            now = after.get(set_name, {}).get(metric, {})
            absent = value.get("value") is None and now.get("value") is None
            if absent or (only is not None and metric not in only):
                continue
            table.add_row(
                escape(set_name) if set_name != last else "",
                escape(metric),
                number(value.get("value")),
                number(now.get("value")),
                interval(now.get("interval")),
            )
            last = set_name
    return table


def answers_table(report: dict[str, Any], *, num_examples: int) -> Table:
    """Return questions with the greedy answers of both models, taken from each set in turn."""
    table = Table(title="Answers before and after", title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("set")
    for name in ("question", "before", "after"):
        table.add_column(name, ratio=1)
    for example in _in_turn(report["examples"], num_examples):
        answers = example["answers"]
        cells = (example["set"], example["prompt"], answers.get("base", "-"), answers.get("unlearned", "-"))
        table.add_row(*(escape(one_line(cell)) for cell in cells))
    return table


def criteria_table(report: dict[str, Any]) -> Table:
    """Return every criterion and how it came out."""
    table = Table(
        title="Criteria", title_justify="left", box=None, header_style="bold", pad_edge=False, show_header=False
    )
    for result in report["criteria"]:
        criterion = result["criterion"]
        what = f"{criterion['set']} {criterion['metric']}"
        table.add_row(styled(result["outcome"]), escape(what), escape(result["reason"]))
    return table


def number(value: float | None) -> str:
    """Write a metric's value with three digits that say something."""
    if value is None:
        return "-"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def interval(bounds: list[float] | None) -> str:
    """Write a confidence interval."""
    return f"{number(bounds[0])} to {number(bounds[1])}" if bounds else ""


def one_line(text: str) -> str:
    """Put a text on one line."""
    return " ".join(text.split())


def _level(report: dict[str, Any]) -> str:
    confidence = report.get("spec", {}).get("evaluation", {}).get("confidence", 0.95)
    return f"{confidence:.0%} interval"


def _in_turn(examples: list[dict[str, Any]], num_examples: int) -> list[dict[str, Any]]:
    by_set: dict[str, list[dict[str, Any]]] = {}
    for example in examples:
        by_set.setdefault(example["set"], []).append(example)
    share = max(1, num_examples // max(1, len(by_set)))
    return [example for group in by_set.values() for example in group[:share]]
