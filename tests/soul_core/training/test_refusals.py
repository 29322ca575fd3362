"""Refusals: which forget sets can be answered with them, and what the answers are."""

from pathlib import Path

import pytest
import torch

from soul_core.data import Row
from soul_core.data.encoding import encode_rows
from soul_core.errors import BadData, BadSpec
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec import JobSpec
from soul_core.training.refusals import make_refusal_examples
from soul_core.training.term_examples import check_terms
from tests.fixtures.capitals import COUNTRIES, rows_of

ALL = list(COUNTRIES)


@pytest.fixture
def loaded(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


def check(loaded: LoadedModel, rows: list[Row], **forget: object) -> None:
    examples = encode_rows(rows, loaded.encoder, max_tokens=128)
    spec = JobSpec.model_validate({"forget": forget})
    check_terms(rows, examples, spec, loaded, max_tokens=128)


@pytest.mark.parametrize("kind", ["refusal", "dpo"])
def test_prompts_with_room_for_a_refusal_are_good(loaded: LoadedModel, kind: str) -> None:
    check(loaded, rows_of(["France", "Italy"]), kind=kind, refusals=["I do not know."])


@pytest.mark.parametrize("kind", ["refusal", "dpo", "altpo"])
def test_plain_text_asks_nothing_that_could_be_answered_otherwise(loaded: LoadedModel, kind: str) -> None:
    rows = [*rows_of(["France"]), Row(2, (), "The capital is Rome."), Row(3, (), "The capital is Lima.")]

    with pytest.raises(BadData, match=f"2 of 3 rows cannot be used with forget.kind '{kind}'") as caught:
        check(loaded, rows, kind=kind)

    assert [detail.split(":")[0] for detail in caught.value.details] == ["row 2", "row 3"]


def test_terms_that_answer_nothing_take_plain_text(loaded: LoadedModel) -> None:
    check(loaded, [Row(1, (), "The capital is Rome.")], kind="npo")


def test_a_refusal_that_runs_past_the_context_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(BadData, match="short refusals or a short instruction") as caught:
        check(loaded, rows_of(["France"]), kind="dpo", refusals=["I do not know. " * 50])

    assert "the limit is 128" in caught.value.details[0]


def test_an_instruction_that_leaves_no_room_for_an_alternate_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(BadData, match="a short instruction") as caught:
        check(loaded, rows_of(["France"]), kind="altpo", alternates="instructed", instruction="Say it otherwise. " * 20)

    assert "the model's limit is 128" in caught.value.details[0]


def test_a_layer_that_is_not_there_is_named(loaded: LoadedModel) -> None:
    with pytest.raises(BadSpec, match=r"forget\.layer: the model has 2 layers, 0 to 1; there is no 2"):
        check(loaded, rows_of(["France"]), kind="rmu", layer=2)


def test_a_refusal_is_supervised_on_its_own_tokens(loaded: LoadedModel) -> None:
    # Upstream keeps the mask of the old answer, so a longer refusal is cut and a shorter one runs into nothing.
    forget = encode_rows(rows_of(ALL[:2]), loaded.encoder, max_tokens=128)
    text = "I cannot tell you anything at all about that, and I never will."

    for old, new in zip(forget, make_refusal_examples(forget, (text,), loaded, seed=0), strict=True):
        assert new.token_ids[: new.num_prompt_tokens] == old.token_ids[: old.num_prompt_tokens]
        answer = list(new.token_ids[new.num_prompt_tokens :])
        assert loaded.tokenizer.decode(answer[:-1]).strip() == text
        assert answer[-1] == old.token_ids[-1], "the end of the answer is learned"


def test_refusals_are_drawn_by_the_seed(loaded: LoadedModel) -> None:
    forget = encode_rows(rows_of(ALL), loaded.encoder, max_tokens=128)
    texts = ("No.", "Never.", "Not at all.")

    drawn = [make_refusal_examples(forget, texts, loaded, seed=seed) for seed in (0, 0, 1)]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]
