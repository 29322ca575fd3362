"""Refusal rate: the share of the model's own answers that decline, do not know, or name nothing."""

import re
from collections.abc import Sequence
from functools import lru_cache

from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.metrics.observed import GeneratedAnswer, InferenceResult
from soul_core.report import MetricValue
from soul_core.spec.after import SHIPPED_REFUSALS
from soul_core.texts import extract_keywords, extract_word_set, extract_words, fold

#: An answer is one of the texts if it has this share of its words, and little else.
_MIN_SHARE, _MAX_LENGTH_FACTOR, _MIN_WORDS = 0.75, 2, 3
_PHRASES = re.compile(
    r"\b(?:(?:do not|don't|did not|didn't|does not) (?:\w+ )?know\b|no (?:information|knowledge|idea)\b"
    r"|(?:not|n't) (?:have|include) (?:\w+ )?(?:information|knowledge|details|answer)\b|not (?:sure|aware|familiar)\b"
    r"|(?:can't|cannot|can not|won't|will not|unable to|not able to|decline to|rather not|prefer not to)(?: \w+)? "
    r"(?:answer|talk|discuss|say|tell|help|share|comment|provide)\w*\b)"
)


def refusal_rate(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the share of the model's answers that refuse and have no keyword of the expected answer.

    An answer refuses if it has a phrase of refusals, or is nearly one of the texts that SOUL or the job gives for that.

    A row whose expected answer itself refuses has no value: there a refusal is right.
    Source: this project; see docs/reference/evaluation.md.
    """
    texts = (*SHIPPED_REFUSALS, *inference.refusals)
    values = [_judge(answer, texts) if answer is not None else None for answer in inference.answers]
    result = summarize(values, resampling)
    if result.value is None and any(answer is not None for answer in inference.answers):
        return make_absent_value("every expected answer is a refusal itself")
    return result


def _judge(answer: GeneratedAnswer, texts: Sequence[str]) -> float | None:
    if is_refusal(answer.expected, texts):
        return None
    keywords = extract_keywords(answer.expected, answer.prompt)
    return float(is_refusal(answer.generated, texts) and not keywords & extract_word_set(answer.generated))


def is_refusal(answer: str, texts: Sequence[str]) -> bool:
    """Return whether an answer has a phrase of refusals in its first sentences, or is nearly one of the texts."""
    if _PHRASES.search(fold(answer).casefold().replace("’", "'")[:200]):
        return True
    words = extract_words(answer)
    return any(_is_near(words, _split(text)) for text in texts)


def _is_near(words: Sequence[str], text_words: tuple[str, ...]) -> bool:
    distinct = set(text_words)
    if len(distinct) < _MIN_WORDS:
        return list(words) == list(text_words)
    is_short = len(words) <= _MAX_LENGTH_FACTOR * len(text_words)
    return is_short and len(distinct.intersection(words)) >= _MIN_SHARE * len(distinct)


@lru_cache(maxsize=1024)
def _split(text: str) -> tuple[str, ...]:
    return tuple(extract_words(text))
