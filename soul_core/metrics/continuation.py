"""How much of a text the model goes on to recite when it is given the beginning: ROUGE-L F1 and BLEU."""

from collections.abc import Callable

from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.metrics.observed import Continuation, InferenceResult
from soul_core.metrics.rouge_words import compute_rouge_l
from soul_core.report import MetricValue
from soul_core.texts import extract_words, is_unspaced

_PERCENT = 100.0


def continuation_rouge_l(inference: InferenceResult, resampling: Resampling, *, prefix: int) -> MetricValue:
    """Return the mean ROUGE-L F1 between how the model continues after `prefix` tokens and how the text does.

    English words are stemmed. A row that goes on without any word has no value: 0 there would read as forgotten.
    Source: VerbMem of MUSE (arXiv:2407.06460, section 3.1); Lin 2004, by the `rouge-score` package.
    Differs from SOUL (arXiv:2404.18239), whose copyright table has ROUGE-L recall: both texts have the same number of
    tokens here, and F1 does not reward a model for writing more words than the book.
    """

    def f1(one: Continuation) -> float | None:
        scored = compute_rouge_l(one.expected, one.generated, use_stemmer=True)
        return None if scored is None else float(scored.fmeasure)

    return _summarize(inference, resampling, prefix, f1)


def continuation_bleu(inference: InferenceResult, resampling: Resampling, *, prefix: int) -> MetricValue:
    """Return the mean sentence BLEU (0 to 1) of the model's continuation against the text's own.

    Source: Papineni et al. 2002, by the `sacrebleu` package (tokenizer 13a, exponential smoothing); effective order,
    so that a text of fewer than four words can reach 1. SOUL (arXiv:2404.18239) reports BLEU for copyrighted books.
    Differs from it in scripts without spaces, which that tokenizer takes for one word: words as in `texts`.
    """

    def bleu(one: Continuation) -> float | None:
        if not one.expected.strip():
            return None
        import sacrebleu

        given, expected, tokenizer = one.generated, one.expected, "13a"
        if is_unspaced(expected):
            given, expected = (" ".join(extract_words(text)) for text in (given, expected))
            tokenizer = "none"
        scored = sacrebleu.sentence_bleu(given, [expected], tokenize=tokenizer, use_effective_order=True)
        return scored.score / _PERCENT

    return _summarize(inference, resampling, prefix, bleu)


def _summarize(
    observed: InferenceResult, resampling: Resampling, prefix: int, score: Callable[[Continuation], float | None]
) -> MetricValue:
    continued = observed.continuations.get(prefix, ())
    if not any(continued):
        return make_absent_value(f"no row is plain text of more than {prefix} tokens")
    # rounding may leave a perfect score a little above 1
    values = [score(one) if one is not None else None for one in continued]
    return summarize([None if value is None else min(1.0, value) for value in values], resampling)
