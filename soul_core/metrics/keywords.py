"""Keyword recall: the words of the expected answer that the question does not give away."""

from collections import Counter
from collections.abc import Sequence

from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.metrics.observed import Observed, OwnAnswer
from soul_core.report import MetricValue
from soul_core.texts import keywords_of, words_of

#: A word in this many answers of a set, and in more than half of them, says nothing about any one of them.
_FEWEST_SHARING = 3


def keyword_recall(observed: Observed, resampling: Resampling) -> MetricValue:
    """Return the mean share of the expected answer's keywords that the model's own answer holds, in any order.

    Keywords: the words that are neither in the question nor mere grammar. A template repeats the question's words, so
    ROUGE-L calls "The capital of France is Rome" five sixths right; here it is wrong. A row whose answer only repeats
    the question has no value. Where no list of function words can be relied on (words with other letters than a-z),
    words that most answers of the set share are grammar too, unless an answer has no others.
    Source: our own; see docs/evaluation.md.
    """
    keywords = [keywords_of(answer.expected, answer.asked) if answer else frozenset() for answer in observed.answers]
    shared = _shared_words(keywords)
    values = [
        _recall(answer, words - shared or words) if answer is not None else None
        for answer, words in zip(observed.answers, keywords, strict=True)
    ]
    result = summarise(values, resampling)
    if result.value is None and any(answer is not None for answer in observed.answers):
        return absent("no expected answer has a word that its question does not hold already")
    return result


def _shared_words(keywords: Sequence[frozenset[str]]) -> frozenset[str]:
    counts = Counter(word for words in keywords for word in words if not word.isascii())
    enough = max(_FEWEST_SHARING, sum(map(bool, keywords)) // 2 + 1)
    return frozenset(word for word, count in counts.items() if count >= enough)


def _recall(answer: OwnAnswer, keywords: frozenset[str]) -> float | None:
    if not keywords:
        return None
    return len(keywords & words_of(answer.given)) / len(keywords)
