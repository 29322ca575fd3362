"""Of each row the way of asking that brings out most, beside each way on its own."""

from pathlib import Path

import pytest

from soul_core.data import Message, Row
from soul_core.models.loading import LoadedModel
from soul_core.spec.attacks import Prompting
from tests.fixtures.capitals import answer, question, rows_of
from tests.soul_core.attacks.conftest import FORGET_COUNTRIES, attack, sets_of, texts, value


@pytest.fixture
def asking() -> Prompting:
    return Prompting(templates=("paraphrase", "prefix", "few_shot", "translation"), prefix_words=2, shots=1)


def test_the_worst_case_is_the_largest_value_of_each_row(
    asking: Prompting, knowing: LoadedModel, tmp_path: Path
) -> None:
    attacked = attack(knowing, asking, tmp_path)

    assert set(attacked.variants) == set(asking.templates)
    for metric, worst in attacked.attacked["forget"].items():
        ways = [attacked.variants[template][metric].per_example for template in asking.templates]
        largest = [max((v for v in row if v is not None), default=None) for row in zip(*ways, strict=True)]  # type: ignore[arg-type]
        assert list(worst.per_example or ()) == largest


def test_one_batch_of_all_ways_says_what_each_way_alone_says(
    asking: Prompting, knowing: LoadedModel, tmp_path: Path
) -> None:
    together = attack(knowing, asking, tmp_path / "together")

    for template in asking.templates:
        alone = attack(knowing, asking.model_copy(update={"templates": (template,)}), tmp_path / template)
        for metric, found in alone.variants[template].items():
            assert found.value == pytest.approx(together.variants[template][metric].value, abs=1e-5)


def test_a_way_that_knows_shows_what_a_way_that_does_not_hides(knowing: LoadedModel, tmp_path: Path) -> None:
    rows = [
        Row(i, (Message("user", f"user assistant {i}?"),), answer(c), {"paraphrased_question": question(c)})
        for i, c in enumerate(FORGET_COUNTRIES, start=1)
    ]

    attacked = attack(
        knowing, Prompting(templates=("translation", "paraphrase")), tmp_path, sets=sets_of(knowing, forget=rows)
    )

    plain = attacked.baseline["forget"]["keyword_recall"].value
    translated = attacked.variants["translation"]["keyword_recall"].value
    assert plain is not None
    assert translated is not None
    assert max(plain, translated) < 0.8  # "capital" is said (0.5), but not which
    assert value(attacked, "keyword_recall") == attacked.variants["paraphrase"]["keyword_recall"].value == 1


def test_ways_that_do_not_fit_into_the_context_are_absent_and_counted(knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, Prompting(templates=("jailbreak", "paraphrase")), tmp_path)

    assert knowing.facts.context_tokens == 128
    assert (
        attacked.variants["jailbreak"]["probability"].absent_reason == "no forget question could be asked in this way"
    )
    assert f"jailbreak: 0 of {len(FORGET_COUNTRIES)} rows could be asked in this way." in attacked.notes
    assert value(attacked) == attacked.variants["paraphrase"]["probability"].value


def test_plain_text_has_no_questions(knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, Prompting(), tmp_path, sets=sets_of(knowing, forget=texts()))

    assert "plain text" in (attacked.absent_reason or "")


def test_without_a_retain_set_other_forget_rows_stand_in_front(knowing: LoadedModel, tmp_path: Path) -> None:
    few_shot = Prompting(templates=("few_shot",), shots=1)

    attacked = attack(knowing, few_shot, tmp_path, sets=sets_of(knowing, retain=[], forget=rows_of(FORGET_COUNTRIES)))

    assert attacked.variants["few_shot"]["probability"].count == len(FORGET_COUNTRIES)
