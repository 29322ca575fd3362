"""Keyword recall: the words of the expected answer that the question does not give away."""

import re
from functools import cache, lru_cache
from typing import Any

from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.metrics.observed import Observed, OwnAnswer
from soul_core.report import MetricValue

#: English words that carry grammar, not facts.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a an and are as at be been but by can did do does for from had has have he her his i in is it its of on or "
        "she so that the their them there they this to was we were which who whom whose will with you your",
    )
)


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


def keywords_of(expected: str, asked: str) -> frozenset[str]:
    """Return the stems of the answer's words that are neither in the question nor mere grammar."""
    return words_of(expected) - words_of(asked) - _FUNCTION_WORDS


def words_of(text: str) -> frozenset[str]:
    """Return words and numbers of any script, Latin ones stemmed. Without spaces between words each sign is one."""
    return frozenset(
        map(_stem, re.findall(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+", text.casefold()))
    )


def _recall(answer: OwnAnswer) -> float | None:
    keywords = keywords_of(answer.expected, answer.asked)
    if not keywords:
        return None
    return len(keywords & words_of(answer.given)) / len(keywords)


@lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    return str(_stemmer().stem(word)) if word.isascii() and len(word) > 3 and word not in _FUNCTION_WORDS else word


@cache
def _stemmer() -> Any:
    """Import nltk where it is first needed: it takes a second, and a fault in a spec is told without it."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()
