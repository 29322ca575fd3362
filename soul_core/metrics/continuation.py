"""How much of a text the model goes on to recite when it is given the beginning: ROUGE-L F1 and BLEU."""

from collections.abc import Callable

from soul_core.metrics.aggregate import Resampling, absent, summarise
from soul_core.metrics.observed import Continuation, Observed
from soul_core.report import MetricValue

_PERCENT = 100.0


def continuation_rouge_l(observed: Observed, resampling: Resampling, *, prefix: int) -> MetricValue:
    """Return the mean ROUGE-L F1 between how the model continues after `prefix` tokens and how the text does.

    Words are stemmed and known by the letters a-z and digits: a row that goes on without any of them has no value,
    because 0 there would read as forgotten.
    Source: VerbMem of MUSE (arXiv:2407.06460, section 3.1); Lin 2004, by the `rouge-score` package.
    Differs from SOUL (arXiv:2404.18239), whose copyright table has ROUGE-L recall: both texts have the same number of
    tokens here, and F1 does not reward a model for writing more words than the book.
    """
    from rouge_score import rouge_scorer

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)

    def f1(one: Continuation) -> float | None:
        if not any(c.isascii() and c.isalnum() for c in one.expected):
            return None
        return float(scorer.score(one.expected, one.given)["rougeL"].fmeasure)

    return _summarise(observed, resampling, prefix, f1)


def continuation_bleu(observed: Observed, resampling: Resampling, *, prefix: int) -> MetricValue:
    """Return the mean sentence BLEU (0 to 1) of the model's continuation against the text's own.

    Source: Papineni et al. 2002, by the `sacrebleu` package (tokenizer 13a, exponential smoothing); effective order,
    so that a text of fewer than four words can reach 1. SOUL (arXiv:2404.18239) reports BLEU for copyrighted books.
    """

    def bleu(one: Continuation) -> float | None:
        if not one.expected.strip():
            return None
        import sacrebleu

        return sacrebleu.sentence_bleu(one.given, [one.expected], use_effective_order=True).score / _PERCENT

    return _summarise(observed, resampling, prefix, bleu)


def _summarise(
    observed: Observed, resampling: Resampling, prefix: int, score: Callable[[Continuation], float | None]
) -> MetricValue:
    continued = observed.continuations.get(prefix, ())
    if not any(continued):
        return absent(f"no row is plain text of more than {prefix} tokens")
    # rounding may leave a perfect score a little above 1
    values = [score(one) if one is not None else None for one in continued]
    return summarise([None if value is None else min(1.0, value) for value in values], resampling)
