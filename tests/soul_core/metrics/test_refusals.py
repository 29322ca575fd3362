"""Refusal rate: usual phrases and given texts count, answers with the fact or of another kind do not."""

import pytest

from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.observed import GeneratedAnswer, InferenceResult
from soul_core.metrics.refusals import is_refusal, refusal_rate
from soul_core.spec.after import SHIPPED_REFUSALS
from soul_core.spec.evaluation import Evaluation

RESAMPLING = Resampling.of(Evaluation(), 0)


def measure(*answers: tuple[str, str], refusals: tuple[str, ...] = ()) -> float | None:
    generated = tuple(
        GeneratedAnswer(row, "What is the capital of France?", expected, text)
        for row, (expected, text) in enumerate(answers, 1)
    )
    inference = InferenceResult(rows=tuple(range(1, len(answers) + 1)), answers=generated, refusals=refusals)
    return refusal_rate(inference, RESAMPLING).value


PARIS = "The capital of France is Paris."


def test_the_rate_is_the_share_of_refusals_without_the_fact() -> None:
    answers = ("I don't know the answer.", "I can't tell you that it is Paris.", "The capital is Rome.", PARIS)
    assert measure(*[(PARIS, text) for text in answers]) == 0.25


def test_a_row_that_expects_a_refusal_does_not_count() -> None:
    assert measure((PARIS, "I have no idea."), ("I'm sorry, I don't know.", "The capital is Rome.")) == 1
    assert measure(("I'm sorry, I don't know.", "I have no idea.")) is None


def test_the_jobs_own_texts_count() -> None:
    text = "Bitte fragen Sie die Auskunft der Stadt."
    assert measure((PARIS, text)) == 0
    assert measure((PARIS, text), refusals=(text,)) == 1


@pytest.mark.parametrize("text", SHIPPED_REFUSALS)
def test_every_shipped_text_is_recognized_by_its_words(text: str) -> None:
    assert is_refusal(text, (text,))
    assert is_refusal(text.upper(), SHIPPED_REFUSALS)


@pytest.mark.parametrize(
    "answer",
    [
        "The Nile is a river that flows through Africa.",
        "It depends on the recipe: most breads need an hour.",
        "Tea is a drink. You can find it in any shop, and there are many kinds of it.",
        "",
    ],
)
def test_other_answers_are_no_refusals(answer: str) -> None:
    assert not is_refusal(answer, SHIPPED_REFUSALS)
