"""Knowledge memorization: what the model answers after a few worked examples of other questions."""

from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.observed import GeneratedAnswer, InferenceResult
from soul_core.metrics.rouge_words import compute_rouge_l
from soul_core.report import MetricValue


def knowledge_memorization(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L F1 of the few-shot answers; rows whose expected answer has no words have no value.

    Source: MUSE (arXiv:2407.06460), knowledge memorization; words are not stemmed, as in its released code.
    Differs from that code: the examples are rows of the user's own sets, turns of the model's own chat template, and an
    answer may be as long as any other here; languages other than English: `rouge_words`.
    """
    return summarize([_f1(answer) for answer in inference.few_shot_answers], resampling)


def _f1(answer: GeneratedAnswer | None) -> float | None:
    if (
        answer is None
        or (scored := compute_rouge_l(answer.expected, answer.generated, prompt=answer.prompt, use_stemmer=False))
        is None
    ):
        return None
    return float(scored.fmeasure)
