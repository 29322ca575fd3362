"""Membership scores of single rows. All are losses: lower for rows that the model was trained on.

`soul_core.metrics.derived` compares forget and holdout rows by these scores.
"""

import zlib as compression
from collections.abc import Sequence

from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.observed import InferenceResult
from soul_core.report import MetricValue

#: Fraction of a row's tokens that Min-K% uses.
MIN_K_FRACTION = 0.4


def loss(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean NLL per token, end of answer included.

    Source: Yeom et al. (arXiv:1709.01604).
    """
    return summarize([s.mean_nll for s in inference.scores], resampling)


def zlib(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the loss divided by the bytes of the answer's compressed text.

    Source: Carlini et al. (arXiv:2012.07805), the comparison with zlib.
    """
    values = [
        s.mean_nll / len(compression.compress(text.encode()))
        for s, text in zip(inference.scores, inference.expected_texts, strict=True)
    ]
    return summarize(values, resampling)


def min_k(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean NLL of the fraction K of tokens that are least likely, at least one.

    Source: Shi et al. (arXiv:2310.16789), with the opposite sign; K as in MUSE (arXiv:2407.06460).
    """
    return summarize([_mean_of_highest(s.nll) for s in inference.scores], resampling)


def min_k_plus(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean of the fraction K of tokens with the highest standardized NLL, at least one.

    Source: Zhang et al. (arXiv:2404.02936), with the opposite sign.
    """
    return summarize([_mean_of_highest(s.standardized_nll) for s in inference.scores], resampling)


def gradient_norm(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the L2 norm of the gradient of the row's mean NLL with respect to all weights.

    Source: GRADNORM of Wang et al. (arXiv:2402.17012).
    """
    return summarize(list(inference.gradient_norms), resampling)


def _mean_of_highest(losses: Sequence[float]) -> float:
    highest = sorted(losses, reverse=True)[: max(1, int(MIN_K_FRACTION * len(losses)))]
    return sum(highest) / len(highest)
