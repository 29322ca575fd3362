"""A report on the terminal: what stands in the JSON, and no markup of a model's making."""

import io

from rich.console import Console

from soul_cli.report_view import print_report
from tests.soul_core.sample_report import sample_report


def printed(report: dict[str, object], **options: object) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=200, color_system=None), **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_verdict_metrics_and_answers_are_shown() -> None:
    report = sample_report().model_dump(mode="json")
    text = printed(report)
    assert f"Verdict: {report['verdict']}" in text
    assert report["examples"][0]["answers"]["unlearned"].split()[0] in text
    value = report["models"]["unlearned"]["sets"]["forget"]["probability"]["value"]
    assert f"{value:.3f}" in text
    for result in report["criteria"]:
        assert result["reason"][:40] in text


def test_only_the_wanted_metrics_are_shown() -> None:
    text = printed(sample_report().model_dump(mode="json"), metrics=("perplexity",), num_examples=0)
    assert "perplexity" in text
    assert "extraction_strength" not in text


def test_a_models_answer_cannot_speak_in_markup() -> None:
    report = sample_report().model_dump(mode="json")
    report["examples"][0]["answers"]["unlearned"] = "[bold red]PASSED[/] [link=x]y"
    assert "[bold red]PASSED[/]" in printed(report)
