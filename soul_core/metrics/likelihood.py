"""Metrics of the expected answer's token likelihoods: probability, perplexity, memorization of the wording."""

import math

from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.observed import InferenceResult
from soul_core.report import MetricValue

#: exp() of a larger number overflows a float.
_MAX_NATS = 700.0


def probability(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean over rows of exp(-mean NLL).

    Source: TOFU (arXiv:2401.06121), section 2.2.1: P(a|q)^(1/|a|); the end-of-answer token counts, as it does there.
    """
    return summarize([math.exp(-s.mean_nll) for s in inference.scores], resampling)


def perplexity(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return exp(total NLL / total tokens): the geometric mean of the rows' perplexities, weighted by their tokens."""
    return summarize(
        [math.exp(min(s.mean_nll, _MAX_NATS)) for s in inference.scores],
        resampling,
        weights=[len(s.nll) for s in inference.scores],
        aggregate="geometric_mean",
    )


def exact_memorization(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the fraction of answer tokens that are the model's first choice under teacher forcing.

    Source: Tirumala et al. (arXiv:2205.10770), definition 1.
    Differs from the open-unlearning code: the end-of-answer token, which every chat model predicts, does not count.
    """
    hits_by_row = [s.content_hits for s in inference.scores]
    return summarize([sum(hits) / len(hits) if hits else None for hits in hits_by_row], resampling)


def extraction_strength(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return 1 - k/|a| for the smallest k such that the model, given the first k tokens, completes the rest exactly.

    Teacher-forced first choices suffice: greedy decoding completes a_k.. exactly if and only if every first choice
    from k on is right.
    Source: Carlini et al. (arXiv:2012.07805); the form of Wang et al. (arXiv:2406.09179).
    Differs from the published code, whose k stops one short of |a| so that the value never reaches 0; and the
    end-of-answer token does not count, for the same reason.
    """
    return summarize([_compute_extraction_strength(s.content_hits) for s in inference.scores], resampling)


def _compute_extraction_strength(hits: tuple[bool, ...]) -> float | None:
    if not hits:
        return None
    num_correct_at_end = next((i for i, hit in enumerate(reversed(hits)) if not hit), len(hits))
    return num_correct_at_end / len(hits)
