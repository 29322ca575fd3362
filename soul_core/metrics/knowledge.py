"""Knowledge memorisation: what the model answers after a few worked examples of other questions."""

from soul_core.metrics.aggregate import Resampling, summarise
from soul_core.metrics.observed import Observed
from soul_core.report import MetricValue


def knowledge_memorisation(observed: Observed, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L F1 of the few-shot answers; rows whose expected answer ROUGE cannot read have no value.

    Source: MUSE (arXiv:2407.06460), knowledge memorisation; words are not stemmed, as in its released code.
    Differs from that code: the examples are rows of the user's own sets, turns of the model's own chat template, and an
    answer may be as long as any other here.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    values = [
        float(scorer.score(answer.expected, answer.given)["rougeL"].fmeasure)
        if answer is not None and any(c.isascii() and c.isalnum() for c in answer.expected)
        else None
        for answer in observed.few_shot
    ]
    return summarise(values, resampling)
