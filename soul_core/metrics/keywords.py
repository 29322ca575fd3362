"""Keyword recall: the words of the expected answer that are not in the question."""

from collections import Counter
from collections.abc import Sequence

from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.metrics.observed import GeneratedAnswer, InferenceResult, SampledAnswers
from soul_core.report import MetricValue
from soul_core.texts import extract_keywords, extract_word_set, is_english

#: A word in at least this many answers, and in more than half of them, does not distinguish one from another.
_MIN_SHARING_ANSWERS = 3


def keyword_recall(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean fraction of the expected answer's keywords that the model's own answer contains, in any order.

    Keywords are the words that are neither in the question nor function words. A template repeats the question's words,
    so ROUGE-L gives "The capital of France is Rome" five sixths; here it is 0. A row whose answer only repeats the
    question has no value. Lists of function words are incomplete, and some languages have none: in answers that are
    not English, words that most answers share count as function words too, unless an answer has no others.
    Source: this project; see docs/reference/evaluation.md.
    """
    values = [
        compute_keyword_recall(answer.generated, words) if answer is not None else None
        for answer, words in zip(inference.answers, find_keywords(inference.answers), strict=True)
    ]
    result = summarize(values, resampling)
    if result.value is None and any(answer is not None for answer in inference.answers):
        return make_absent_value("no expected answer has a word that its question does not contain")
    return result


def find_keywords(answers: Sequence[GeneratedAnswer | SampledAnswers | None]) -> list[frozenset[str]]:
    """Return the keywords of each row's expected answer; none for a row without an answer."""
    keywords = [extract_keywords(answer.expected, answer.prompt) if answer else frozenset() for answer in answers]
    shared = _find_shared_words(answers, keywords)
    return [words - shared or words for words in keywords]


def _find_shared_words(
    answers: Sequence[GeneratedAnswer | SampledAnswers | None], keywords: Sequence[frozenset[str]]
) -> frozenset[str]:
    foreign = [
        words
        for answer, words in zip(answers, keywords, strict=True)
        if answer is not None and words and not is_english(f"{answer.prompt} {answer.expected}")
    ]
    counts = Counter(word for words in foreign for word in words)
    enough = max(_MIN_SHARING_ANSWERS, len(foreign) // 2 + 1)
    return frozenset(word for word, count in counts.items() if count >= enough)


def compute_keyword_recall(generated: str, keywords: frozenset[str]) -> float | None:
    """Return the fraction of the keywords that a text contains, in any order; None without keywords."""
    if not keywords:
        return None
    return len(keywords & extract_word_set(generated)) / len(keywords)
