"""For each row the way of settings that reveals most, and each way on its own."""

from pathlib import Path

import pytest

from soul_core.attacks.context import SAMPLED_METRICS
from soul_core.data import Message, Row
from soul_core.models.loading import LoadedModel
from soul_core.spec.attacks import Prompting
from tests.fixtures.capitals import answer, question, rows_of
from tests.soul_core.attacks.conftest import FORGET_COUNTRIES, attack, make_sets, make_texts, value


@pytest.fixture
def settings() -> Prompting:
    return Prompting(templates=("paraphrase", "prefix", "few_shot", "translation"), prefix_words=2, shots=1)


def test_the_worst_case_is_the_largest_value_of_each_row(
    settings: Prompting, knowing: LoadedModel, tmp_path: Path
) -> None:
    outcome = attack(knowing, settings, tmp_path)

    assert set(outcome.variants) == set(settings.templates)
    for metric, worst in outcome.attacked["forget"].items():
        ways = [outcome.variants[template][metric].per_example for template in settings.templates]
        largest = [max((v for v in row if v is not None), default=None) for row in zip(*ways, strict=True)]  # type: ignore[arg-type]
        assert list(worst.per_example or ()) == largest


def test_all_ways_in_one_batch_have_the_values_of_each_way_alone(
    settings: Prompting, knowing: LoadedModel, tmp_path: Path
) -> None:
    together = attack(knowing, settings, tmp_path / "together")

    for template in settings.templates:
        alone = attack(knowing, settings.model_copy(update={"templates": (template,)}), tmp_path / template)
        for metric, result in alone.variants[template].items():
            if metric in SAMPLED_METRICS:  # samples of a row are spread over the ways: one way alone has more
                continue
            assert result.value == pytest.approx(together.variants[template][metric].value, abs=1e-5)


def test_the_worst_case_takes_the_way_that_reveals_the_answer(knowing: LoadedModel, tmp_path: Path) -> None:
    rows = [
        Row(i, (Message("user", f"user assistant {i}?"),), answer(c), {"paraphrased_question": question(c)})
        for i, c in enumerate(FORGET_COUNTRIES, start=1)
    ]

    outcome = attack(
        knowing, Prompting(templates=("translation", "paraphrase")), tmp_path, sets=make_sets(knowing, forget=rows)
    )

    plain = outcome.baseline["forget"]["keyword_recall"].value
    translated = outcome.variants["translation"]["keyword_recall"].value
    assert plain is not None
    assert translated is not None
    assert max(plain, translated) < 0.8  # "capital" is recalled (0.5), but not its name
    assert value(outcome, "keyword_recall") == outcome.variants["paraphrase"]["keyword_recall"].value == 1


def test_ways_that_exceed_the_context_are_absent_and_counted(knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, Prompting(templates=("jailbreak", "paraphrase")), tmp_path)

    assert knowing.facts.context_tokens == 128
    assert outcome.variants["jailbreak"]["probability"].absent_reason == "no forget question could be asked in this way"
    assert f"jailbreak: 0 of {len(FORGET_COUNTRIES)} rows could be asked in this way." in outcome.notes
    assert value(outcome) == outcome.variants["paraphrase"]["probability"].value


def test_plain_text_makes_it_absent(knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, Prompting(), tmp_path, sets=make_sets(knowing, forget=make_texts()))

    assert "plain text" in (outcome.absent_reason or "")


def test_without_a_retain_set_other_forget_rows_are_the_few_shot_examples(knowing: LoadedModel, tmp_path: Path) -> None:
    few_shot = Prompting(templates=("few_shot",), shots=1)

    outcome = attack(knowing, few_shot, tmp_path, sets=make_sets(knowing, retain=[], forget=rows_of(FORGET_COUNTRIES)))

    assert outcome.variants["few_shot"]["probability"].count == len(FORGET_COUNTRIES)
