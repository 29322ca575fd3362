"""ROUGE-L recall of the model's own answer."""

from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.metrics.observed import Observed, OwnAnswer
from soul_core.metrics.rouge_words import rouge_l_of
from soul_core.report import MetricValue


def rouge_l(observed: Observed, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L recall: longest common subsequence of words / words of the expected answer.

    English words are stemmed. A row whose expected answer has no words has no value.
    Source: Lin 2004, by the `rouge-score` package, as TOFU (arXiv:2401.06121) uses it.
    Differs from the package in languages other than English: `rouge_words`.
    """
    result = summarise([_recall(answer) for answer in observed.answers], resampling)
    if result.value is None and any(answer is not None for answer in observed.answers):
        return absent("no expected answer has words")
    return result


def _recall(answer: OwnAnswer | None) -> float | None:
    if answer is None or (scored := rouge_l_of(answer.expected, answer.given, asked=answer.asked, stem=True)) is None:
        return None
    return float(scored.recall)
