"""The model card: the metadata that the hub's own library reads, and the text."""

import re

import pytest
from huggingface_hub import EvalResult, ModelCard

from soul_core.formatting import format_percent
from soul_core.rendering.attack_tables import compute_recovered_fraction
from soul_core.rendering.model_card import escape_markdown, render_model_card
from soul_core.report import Report
from soul_core.spec.wrappers import Lora
from tests.fixtures.sample_report import sample_report

HOSTILE = "x\n---\nlicense: mit\n# <script>alert(1)</script> | `a`"


@pytest.fixture(scope="module")
def report() -> Report:
    return sample_report(rich=True)


@pytest.fixture(scope="module")
def card(report: Report) -> ModelCard:
    return ModelCard(render_model_card(report), ignore_metadata_errors=False)


def test_the_hub_reads_base_model_task_and_tags(card: ModelCard) -> None:
    assert card.data.base_model == "example/tiny-llama"
    assert card.data.base_model_relation == "finetune"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    assert {"soul", "unlearning", "npo", "sophia"} <= set(card.data.tags)


def test_an_unknown_license_is_left_out(card: ModelCard) -> None:
    assert card.data.license is None
    assert "license" not in card.data.to_dict()


def test_the_hub_reads_exactly_the_numbers_of_the_unlearned_model(report: Report, card: ModelCard) -> None:
    results: list[EvalResult] = card.data.eval_results
    by_metric = {(result.dataset_type, result.metric_type): result.metric_value for result in results}
    measured = {
        ("soul" if name == "all" else f"soul-{name}", metric): value.value
        for name, values in report.models["unlearned"].sets.items()
        for metric, value in values.items()
        if value.value is not None
    }
    assert by_metric == measured
    forget = next(
        result for result in results if (result.dataset_type, result.metric_type) == ("soul-forget", "probability")
    )
    assert forget.dataset_revision == next(data.sha256 for data in report.data if data.name == "forget")
    assert forget.metric_args == {
        "interval": list(report.models["unlearned"].sets["forget"]["probability"].interval or ())
    }


def test_the_text_has_verdict_criteria_attacks_and_caveats(report: Report, card: ModelCard) -> None:
    for outcome in ("passed", "failed"):
        of_outcome = [result.criterion.attack for result in report.criteria if result.outcome == outcome]
        assert card.text.count(f"| {outcome} |") == len(of_outcome)
    assert of_outcome == ["relearn"], "more comes back than in the retrained model"
    fractions = [
        compute_recovered_fraction(report.attacks[0], "unlearned", "forget", metric)
        for metric in ("keyword_recall", "probability")
    ]
    fraction = max(fraction for fraction in fractions if fraction is not None)
    assert f"Recovered by the strongest attack: **{format_percent(fraction)}**" in card.text
    assert "was not run: no general set was given" in card.text
    assert "## Caveats" in card.text
    assert not re.search(r"\b(erased|compliant|guaranteed)\b", card.text.lower())


def test_every_table_row_has_as_many_cells_as_its_head(card: ModelCard) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", card.text, flags=re.MULTILINE):
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert len(set(cells)) == 1, table


def test_the_card_of_a_local_model_names_no_base_model_of_the_hub() -> None:
    report = sample_report()
    local = report.model_copy(update={"model": report.model.model_copy(update={"source": "/srv/models/x"})})
    data = ModelCard(render_model_card(local)).data
    assert data.base_model is None
    assert data.eval_results


def test_a_model_without_numbers_has_a_card() -> None:
    report = sample_report()
    card = ModelCard(render_model_card(report.model_copy(update={"models": {}, "criteria": (), "attacks": ()})))
    assert card.data.eval_results is None
    assert "The spec has no criteria." in card.text
    assert "No attack was run." in card.text


def test_a_fine_tuned_model_has_a_card_of_its_own() -> None:
    card = ModelCard(render_model_card(sample_report(kind="finetune")))
    assert "after fine-tuning" in card.text
    assert "forget term" not in card.text
    assert {result.dataset_type for result in card.data.eval_results} == {"soul-train"}


def test_the_card_of_adapters_says_that_they_need_their_base() -> None:
    report = sample_report()
    spec = report.spec.model_copy(update={"lora": Lora(output="adapter")})
    card = ModelCard(render_model_card(report.model_copy(update={"spec": spec})))
    assert (card.data.library_name, card.data.base_model_relation) == ("peft", "adapter")
    assert "PeftModel.from_pretrained" in card.text


def test_hostile_text_stays_text_in_the_card() -> None:
    report = sample_report()
    facts = report.model.model_copy(update={"source": HOSTILE})
    card = ModelCard(render_model_card(report.model_copy(update={"model": facts, "verdict_reason": HOSTILE})))
    assert card.data.license is None
    assert "<script>" not in card.text
    assert escape_markdown("a|b\n# <b>c</b> `d`") == r"a\|b \# \<b\>c\</b\> \`d\`"
