"""ROUGE-L recall of the model's own answer."""

from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.metrics.observed import GeneratedAnswer, InferenceResult
from soul_core.metrics.rouge_words import compute_rouge_l
from soul_core.report import MetricValue


def rouge_l(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L recall: longest common subsequence of words / words of the expected answer.

    English words are stemmed. A row whose expected answer has no words has no value.
    Source: Lin 2004, by the `rouge-score` package, as TOFU (arXiv:2401.06121) uses it.
    Differs from the package in languages other than English: `rouge_words`.
    """
    result = summarize([_recall(answer) for answer in inference.answers], resampling)
    if result.value is None and any(answer is not None for answer in inference.answers):
        return make_absent_value("no expected answer has words")
    return result


def _recall(answer: GeneratedAnswer | None) -> float | None:
    if (
        answer is None
        or (scored := compute_rouge_l(answer.expected, answer.generated, prompt=answer.prompt, use_stemmer=True))
        is None
    ):
        return None
    return float(scored.recall)
