"""The model card: what the hub's own library reads in it, and what a person does."""

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


def test_a_license_that_is_not_known_is_not_named(card: ModelCard) -> None:
    assert card.data.license is None
    assert "license" not in card.data.to_dict()


def test_the_hub_reads_every_number_of_the_unlearned_model_and_no_other(report: Report, card: ModelCard) -> None:
    results: list[EvalResult] = card.data.eval_results
    read = {(one.dataset_type, one.metric_type): one.metric_value for one in results}
    measured = {
        ("soul" if name == "all" else f"soul-{name}", metric): value.value
        for name, values in report.models["unlearned"].sets.items()
        for metric, value in values.items()
        if value.value is not None
    }
    assert read == measured
    forget = next(one for one in results if (one.dataset_type, one.metric_type) == ("soul-forget", "probability"))
    assert forget.dataset_revision == next(data.sha256 for data in report.data if data.name == "forget")
    assert forget.metric_args == {
        "interval": list(report.models["unlearned"].sets["forget"]["probability"].interval or ())
    }


def test_a_person_reads_verdict_criteria_attacks_and_limits(report: Report, card: ModelCard) -> None:
    assert card.text.count("| passed |") == len(report.criteria)
    share = compute_recovered_fraction(report.attacks[0], "unlearned", "forget", "keyword_recall")
    assert share is not None
    assert f"Came back under the strongest attack: **{format_percent(share)}**" in card.text
    assert "was not run: no general set was given" in card.text
    assert "## Limits" in card.text
    assert not re.search(r"\b(erased|compliant|guaranteed)\b", card.text.lower())


def test_every_table_row_has_as_many_cells_as_its_head(card: ModelCard) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", card.text, flags=re.MULTILINE):
        cells = [len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()]
        assert len(set(cells)) == 1, table


def test_the_card_names_no_base_on_the_hub_for_a_local_model() -> None:
    report = sample_report()
    local = report.model_copy(update={"model": report.model.model_copy(update={"source": "/srv/models/x"})})
    data = ModelCard(render_model_card(local)).data
    assert data.base_model is None
    assert data.eval_results


def test_a_model_without_numbers_has_a_card_too() -> None:
    report = sample_report()
    card = ModelCard(render_model_card(report.model_copy(update={"models": {}, "criteria": (), "attacks": ()})))
    assert card.data.eval_results is None
    assert "The spec named none." in card.text
    assert "No attack was run." in card.text


def test_a_fine_tuned_model_has_a_card_of_its_own() -> None:
    card = ModelCard(render_model_card(sample_report(kind="finetune")))
    assert "after fine-tuning" in card.text
    assert "forget term" not in card.text
    assert {one.dataset_type for one in card.data.eval_results} == {"soul-train"}


def test_the_card_of_adapters_says_that_they_need_their_base() -> None:
    report = sample_report()
    spec = report.spec.model_copy(update={"lora": Lora(output="adapter")})
    card = ModelCard(render_model_card(report.model_copy(update={"spec": spec})))
    assert (card.data.library_name, card.data.base_model_relation) == ("peft", "adapter")
    assert "PeftModel.from_pretrained" in card.text


def test_text_from_outside_stays_text_in_the_card() -> None:
    report = sample_report()
    facts = report.model.model_copy(update={"source": HOSTILE})
    card = ModelCard(render_model_card(report.model_copy(update={"model": facts, "verdict_reason": HOSTILE})))
    assert card.data.license is None
    assert "<script>" not in card.text
    assert escape_markdown("a|b\n# <b>c</b> `d`") == r"a\|b \# \<b\>c\</b\> \`d\`"
