"""Perplexity of plain text."""

import math

from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.observed import InferenceResult
from soul_core.report import MetricValue

#: exp() of more is not a float.
_MOST_NATS = 700.0


def perplexity(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return exp(total NLL / total tokens): the geometric mean of the rows' perplexities weighted by their tokens."""
    return summarize(
        [math.exp(min(sum(s.nll) / len(s.nll), _MOST_NATS)) for s in inference.scores],
        resampling,
        weights=[len(s.nll) for s in inference.scores],
        aggregate="geometric_mean",
    )
