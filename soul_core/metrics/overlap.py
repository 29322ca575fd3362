"""Metrics of the words that a generated text shares with the expected one: ROUGE-L and BLEU."""

from collections.abc import Callable, Sequence
from typing import Literal

from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.metrics.observed import Continuation, GeneratedAnswer, InferenceResult
from soul_core.metrics.rouge_words import compute_rouge_l
from soul_core.report import MetricValue
from soul_core.texts import extract_words, is_unspaced

_PERCENT = 100.0


def rouge_l(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L recall: longest common subsequence of words / words of the expected answer.

    English words are stemmed. A row whose expected answer has no words has no value.
    Source: Lin 2004, by the `rouge-score` package, as TOFU (arXiv:2401.06121) uses it.
    Differs from the package in languages other than English: `rouge_words`.
    """
    result = summarize(_score_answers(inference.answers, "recall", use_stemmer=True), resampling)
    if result.value is None and any(answer is not None for answer in inference.answers):
        return make_absent_value("no expected answer has words")
    return result


def knowledge_memorization(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean ROUGE-L F1 of the few-shot answers; rows whose expected answer has no words have no value.

    Source: MUSE (arXiv:2407.06460), knowledge memorization; words are not stemmed, as in its released code.
    Differs from that code: the examples are rows of the user's own sets, turns of the model's own chat template, and an
    answer may be as long as any other here; languages other than English: `rouge_words`.
    """
    return summarize(_score_answers(inference.few_shot_answers, "fmeasure", use_stemmer=False), resampling)


def continuation_rouge_l(inference: InferenceResult, resampling: Resampling, *, prefix: int) -> MetricValue:
    """Return the mean ROUGE-L F1 between the model's continuation after `prefix` tokens and the text's own.

    English words are stemmed. A row that continues without any word has no value: 0 there would read as forgotten.
    Source: VerbMem of MUSE (arXiv:2407.06460, section 3.1); Lin 2004, by the `rouge-score` package.
    Differs from SOUL (arXiv:2404.18239), whose copyright table has ROUGE-L recall: both texts have the same number of
    tokens here, and F1 does not reward a model for writing more words than the book.
    """

    def compute_f1(continuation: Continuation) -> float | None:
        rouge = compute_rouge_l(continuation.expected, continuation.generated, use_stemmer=True)
        return None if rouge is None else float(rouge.fmeasure)

    return _summarize_continuations(inference, resampling, prefix, compute_f1)


def continuation_bleu(inference: InferenceResult, resampling: Resampling, *, prefix: int) -> MetricValue:
    """Return the mean sentence BLEU (0 to 1) of the model's continuation against the text's own.

    Source: Papineni et al. 2002, by the `sacrebleu` package (tokenizer 13a, exponential smoothing); effective order,
    so that a text of fewer than four words can reach 1. SOUL (arXiv:2404.18239) reports BLEU for copyrighted books.
    Differs from it in scripts without spaces, which that tokenizer takes for one word: words as in `texts`.
    """

    def compute_bleu(continuation: Continuation) -> float | None:
        if not continuation.expected.strip():
            return None
        import sacrebleu

        generated, expected, tokenizer = continuation.generated, continuation.expected, "13a"
        if is_unspaced(expected):
            generated, expected = (" ".join(extract_words(text)) for text in (generated, expected))
            tokenizer = "none"
        bleu = sacrebleu.sentence_bleu(generated, [expected], tokenize=tokenizer, use_effective_order=True)
        return bleu.score / _PERCENT

    return _summarize_continuations(inference, resampling, prefix, compute_bleu)


def _score_answers(
    answers: Sequence[GeneratedAnswer | None], part: Literal["recall", "fmeasure"], *, use_stemmer: bool
) -> list[float | None]:
    """Return ROUGE-L of each answer; None for a row without an answer, or whose expected answer has no words."""
    values: list[float | None] = []
    for answer in answers:
        rouge = answer and compute_rouge_l(
            answer.expected, answer.generated, prompt=answer.prompt, use_stemmer=use_stemmer
        )
        values.append(None if rouge is None else float(getattr(rouge, part)))
    return values


def _summarize_continuations(
    inference: InferenceResult, resampling: Resampling, prefix: int, score: Callable[[Continuation], float | None]
) -> MetricValue:
    continuations = inference.continuations.get(prefix, ())
    if not any(continuations):
        return make_absent_value(f"no row is plain text of more than {prefix} tokens")
    # rounding may leave a perfect score a little above 1
    scores = [score(continuation) if continuation is not None else None for continuation in continuations]
    return summarize([None if value is None else min(1.0, value) for value in scores], resampling)
