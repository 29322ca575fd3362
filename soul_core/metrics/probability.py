"""Answer probability: exp(-mean NLL) of the expected answer."""

import math

from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.observed import InferenceResult
from soul_core.report import MetricValue


def probability(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean over rows of exp(-mean NLL).

    Source: TOFU (arXiv:2401.06121), section 2.2.1: P(a|q)^(1/|a|); the end-of-answer token counts, as it does there.
    """
    return summarize([math.exp(-sum(s.nll) / len(s.nll)) for s in inference.scores], resampling)
