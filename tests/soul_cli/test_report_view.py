"""A report on the terminal shows the values of the JSON, and a model's output cannot add markup."""

import io

import pytest
from rich.console import Console

from soul_cli.report_view import MODEL_TITLES, list_models, print_report
from soul_core.spec import JobKind
from tests.fixtures.sample_report import sample_report


def render(report: dict[str, object], **options: object) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=200, color_system=None), **options)  # type: ignore[arg-type]
    return out.getvalue()


def test_verdict_metrics_and_answers_are_shown() -> None:
    report = sample_report().model_dump(mode="json")
    text = render(report)
    assert f"Verdict: {report['verdict']}" in text
    assert report["examples"][0]["answers"]["unlearned"].split()[0] in text
    value = report["models"]["unlearned"]["sets"]["forget"]["probability"]["value"]
    assert f"{value:.3f}" in text
    for result in report["criteria"]:
        assert result["reason"][:40] in text


def test_only_the_named_metrics_are_shown() -> None:
    text = render(sample_report().model_dump(mode="json"), metrics=("perplexity",), num_examples=0)
    assert "perplexity" in text
    assert "extraction_strength" not in text


def test_markup_in_a_models_answer_is_printed_as_text() -> None:
    report = sample_report().model_dump(mode="json")
    report["examples"][0]["answers"]["unlearned"] = "[bold red]PASSED[/] [link=x]y"
    assert "[bold red]PASSED[/]" in render(report)


@pytest.mark.parametrize("kind", ["unlearn", "finetune", "evaluate"])
def test_every_model_has_its_column_and_every_attack_its_line(kind: JobKind) -> None:
    report = sample_report(kind=kind, rich=kind != "finetune").model_dump(mode="json")
    text = render(report)

    header = next(line for line in text.splitlines() if line.startswith("set") and "metric" in line)
    titles = [MODEL_TITLES.get(name, name) for name in list_models(report)]
    assert [header.index(title) for title in titles] == sorted(header.index(title) for title in titles)
    for name in report["models"]:
        for metrics in report["models"][name]["sets"].values():
            value = metrics.get("probability", {}).get("value")
            assert value is None or f"{value:.3f}" in text
    for attack in report["attacks"]:
        assert attack["label"] in text
        assert attack["absent_reason"] is None or attack["absent_reason"][:30] in text


def test_an_attack_is_shown_with_the_value_without_it() -> None:
    report = sample_report(rich=True).model_dump(mode="json")
    attack = next(attack for attack in report["attacks"] if attack["label"] == "relearn")
    without, under = (attack[part]["unlearned"]["forget"]["probability"]["value"] for part in ("baseline", "attacked"))

    assert f"{without:.3f} → {under:.3f}" in render(report)


def test_sampled_answers_have_a_line_for_each_model_with_its_worst_row() -> None:
    report = sample_report(rich=True).model_dump(mode="json")
    leaks = report["models"]["unlearned"]["leaks"]["forget"]
    hot, cold = (f"{of_t['leak_at']['10']:.3f}" for of_t in leaks["temperatures"])

    text = " ".join(render(report).split())

    assert (
        f"Sampled answers, forget set, after: leak at 10 is {hot} at temperature 1, {cold} at temperature 0.7; "
        f"{leaks['worst_row_leaks']} of 20 samples of the worst row, {leaks['worst_row']}, state the fact"
    ) in text
