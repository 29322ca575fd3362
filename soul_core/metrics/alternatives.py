"""Metrics of the expected answer against other answers to the same question: truth ratio, normalized probability."""

import math
from collections.abc import Callable

from soul_core.catalogue import METRIC_CATALOG
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.observed import AlternativeLosses, InferenceResult
from soul_core.report import MetricValue

#: exp() of a larger number overflows a float.
_MAX_NATS = 700.0


def truth_ratio(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return each row's exp(-mean_i l(wrong_i)) / exp(-l(right)); the set says how rows are aggregated.

    Source: TOFU (arXiv:2401.06121), section 2.2, as in its official logs: right is the paraphrase, or the expected
    answer where there is none (real authors, world facts), and a row's value is the ratio itself.
    Differs from the paper's equation 1, which averages the wrong answers' probabilities and not their losses.
    """
    values = _map_rows(inference, _compute_ratio)
    return summarize(values, resampling, aggregate=METRIC_CATALOG["truth_ratio"].get_aggregate(inference.set_name))


def probability_normalized(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the mean of P / (P + sum of P_wrong), P = exp(-l).

    Source: TOFU (arXiv:2401.06121), section 2.2.1.
    """
    return summarize(_map_rows(inference, _compute_fraction), resampling)


def choice_accuracy(inference: InferenceResult, resampling: Resampling) -> MetricValue:
    """Return the fraction of rows whose expected answer has a lower mean NLL than every wrong one; a tie is a miss.

    Source: multiple choice by likelihood, normalized by tokens: GPT-3 (arXiv:2005.14165), section 2.4.
    """
    return summarize(_map_rows(inference, _is_best), resampling)


def _map_rows(inference: InferenceResult, value: Callable[[float, AlternativeLosses], float]) -> list[float | None]:
    """Return `value` of each row's loss and other answers; None for a row without other answers."""
    return [
        None if others is None else value(s.mean_nll, others)
        for s, others in zip(inference.scores, inference.alternatives, strict=True)
    ]


def _compute_ratio(loss: float, others: AlternativeLosses) -> float:
    right = loss if others.paraphrase is None else others.paraphrase
    return math.exp(min(right - sum(others.wrong) / len(others.wrong), _MAX_NATS))


def _compute_fraction(loss: float, others: AlternativeLosses) -> float:
    return 1 / (1 + sum(math.exp(min(loss - wrong, _MAX_NATS)) for wrong in others.wrong))


def _is_best(loss: float, others: AlternativeLosses) -> float:
    return float(loss < min(others.wrong))
