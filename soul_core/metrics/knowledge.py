"""Knowledge memorisation: what the model answers after a few worked examples of other questions."""

from soul_core.metrics.aggregate import Resampling, summarise
from soul_core.metrics.observed import Observed, OwnAnswer
from soul_core.metrics.rouge_words import rouge_l_of
from soul_core.report import MetricValue


def knowledge_memorisation(observed: Observed, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L F1 of the few-shot answers; rows whose expected answer has no words have no value.

    Source: MUSE (arXiv:2407.06460), knowledge memorisation; words are not stemmed, as in its released code.
    Differs from that code: the examples are rows of the user's own sets, turns of the model's own chat template, and an
    answer may be as long as any other here; languages other than English: `rouge_words`.
    """
    return summarise([_f1(answer) for answer in observed.few_shot], resampling)


def _f1(answer: OwnAnswer | None) -> float | None:
    if answer is None or (scored := rouge_l_of(answer.expected, answer.given, asked=answer.asked, stem=False)) is None:
        return None
    return float(scored.fmeasure)
