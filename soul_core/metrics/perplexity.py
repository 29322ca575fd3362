"""Perplexity of plain text."""

import math

from soul_core.metrics.aggregate import Resampling, summarise
from soul_core.metrics.observed import Observed
from soul_core.report import MetricValue

#: exp() of more is not a float.
_MOST_NATS = 700.0


def perplexity(observed: Observed, resampling: Resampling) -> MetricValue:
    """Return exp(total NLL / total tokens): the geometric mean of the rows' perplexities weighted by their tokens."""
    return summarise(
        [math.exp(min(sum(s.nll) / len(s.nll), _MOST_NATS)) for s in observed.scores],
        resampling,
        weights=[len(s.nll) for s in observed.scores],
        aggregate="geometric_mean",
    )
