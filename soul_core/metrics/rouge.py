"""ROUGE-L recall of the model's own answer."""

from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.metrics.observed import Observed
from soul_core.report import MetricValue


def rouge_l(observed: Observed, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L recall: longest common subsequence of words / words of the expected answer.

    Words are stemmed. The published tokenizer knows the letters a-z and digits only: a row whose expected answer has
    none of them (another script) has no value, because 0 there would read as forgotten.
    Source: Lin 2004, by the `rouge-score` package, as TOFU (arXiv:2401.06121) uses it.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    values = [
        float(scorer.score(answer.expected, answer.given)["rougeL"].recall)
        if answer is not None and any(c.isascii() and c.isalnum() for c in answer.expected)
        else None
        for answer in observed.answers
    ]
    result = summarise(values, resampling)
    if result.value is None and any(answer is not None for answer in observed.answers):
        return absent("no expected answer has words in Latin letters or digits, all that ROUGE can read")
    return result
