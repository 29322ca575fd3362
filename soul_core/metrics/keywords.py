"""Keyword recall: the words of the expected answer that the question does not give away."""

from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.metrics.observed import Observed, OwnAnswer
from soul_core.report import MetricValue
from soul_core.texts import keywords_of, words_of


def keyword_recall(observed: Observed, resampling: Resampling) -> MetricValue:
    """Return the mean share of the expected answer's keywords that the model's own answer holds, in any order.

    Keywords: the words that are neither in the question nor mere grammar. A template repeats the question's words, so
    ROUGE-L calls "The capital of France is Rome" five sixths right; here it is wrong. A row whose answer only repeats
    the question has no value.
    Source: our own; see docs/evaluation.md.
    """
    values = [_recall(answer) if answer is not None else None for answer in observed.answers]
    result = summarise(values, resampling)
    if result.value is None and any(answer is not None for answer in observed.answers):
        return absent("no expected answer has a word that its question does not hold already")
    return result


def _recall(answer: OwnAnswer) -> float | None:
    keywords = keywords_of(answer.expected, answer.asked)
    if not keywords:
        return None
    return len(keywords & words_of(answer.given)) / len(keywords)
