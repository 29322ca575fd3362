"""Terms that answer the forget prompts in another way: which rows and models they can use."""

import pytest

from soul_core.data import Row
from soul_core.data.encoding import encode_rows
from soul_core.errors import BadData, BadSpec
from soul_core.models.loading import LoadedModel
from soul_core.spec import JobSpec
from soul_core.training.term_examples import check_terms
from tests.fixtures.capitals import rows_of


def check(loaded: LoadedModel, rows: list[Row], **forget: object) -> None:
    examples = encode_rows(rows, loaded.encoder, max_tokens=128)
    spec = JobSpec.model_validate({"forget": forget})
    check_terms(rows, examples, spec, loaded, max_tokens=128)


@pytest.mark.parametrize("kind", ["refusal", "dpo"])
def test_prompts_with_space_for_a_refusal_are_accepted(loaded: LoadedModel, kind: str) -> None:
    check(loaded, rows_of(["France", "Italy"]), kind=kind, refusals=["I do not know."])


@pytest.mark.parametrize("kind", ["refusal", "dpo", "altpo"])
def test_plain_text_is_refused_because_it_has_no_prompt(loaded: LoadedModel, kind: str) -> None:
    rows = [*rows_of(["France"]), Row(2, (), "The capital is Rome."), Row(3, (), "The capital is Lima.")]

    with pytest.raises(BadData, match=f"2 of 3 rows cannot be used with forget.kind '{kind}'") as caught:
        check(loaded, rows, kind=kind)

    assert caught.value.details == tuple(f"row {number}: plain text has no prompt to answer" for number in (2, 3))


def test_terms_that_make_no_answers_accept_plain_text(loaded: LoadedModel) -> None:
    check(loaded, [Row(1, (), "The capital is Rome.")], kind="npo")


def test_a_row_too_long_with_its_refusal_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(BadData, match="short refusals or a short instruction") as caught:
        check(loaded, rows_of(["France"]), kind="dpo", refusals=["I do not know. " * 50])

    assert "row 1: with its refusal " in caught.value.details[0]
    assert "the limit is 128" in caught.value.details[0]


def test_a_row_whose_instruction_leaves_no_space_for_an_alternate_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(BadData, match="a short instruction") as caught:
        check(loaded, rows_of(["France"]), kind="altpo", alternates="instructed", instruction="Say it otherwise. " * 20)

    assert "leave no space for an alternate; the model's limit is 128" in caught.value.details[0]


def test_a_layer_that_the_model_does_not_have_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BadSpec, match=r"forget\.layer: the model has layers 0 to 1, and no layer 2"):
        check(loaded, rows_of(["France"]), kind="rmu", layer=2)
