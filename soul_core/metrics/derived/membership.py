"""Membership inference: how well a score separates the forget set (members) from rows never seen (holdout)."""

from collections.abc import Callable

import numpy as np

from soul_core.metrics.aggregate import compute_interval
from soul_core.metrics.derived.inputs import DerivedMetricInputs, get_paired_values, get_values
from soul_core.metrics.statistics import Floats, Indices, resampled_auc, resampled_tpr
from soul_core.report import MetricValue
from soul_core.spec import FORGET, HOLDOUT

#: False positives that an attacker accepts who needs certainty.
MAX_FALSE_POSITIVE_RATE = 0.01


def membership_auc(inputs: DerivedMetricInputs, *, score: str) -> dict[str, MetricValue]:
    """Return the AUC of a score, members ranked first; ties count half.

    Source: Yeom et al. (arXiv:1709.01604); forget against holdout as in MUSE (arXiv:2407.06460).
    """
    return {FORGET: _compare(inputs, score, resampled_auc)}


def membership_tpr(inputs: DerivedMetricInputs, *, score: str) -> dict[str, MetricValue]:
    """Return the true positive rate at a false positive rate of at most MAX_FALSE_POSITIVE_RATE.

    Source: Carlini et al. (arXiv:2112.03570).
    """

    def compute_tpr(members: Floats, others: Floats, member_BP: Indices, other_BN: Indices) -> Floats:
        return resampled_tpr(members, others, member_BP, other_BN, fpr=MAX_FALSE_POSITIVE_RATE)

    return {FORGET: _compare(inputs, score, compute_tpr)}


def _compare(
    inputs: DerivedMetricInputs, score: str, statistic: Callable[[Floats, Floats, Indices, Indices], Floats]
) -> MetricValue:
    members, others = (_compute_member_scores(inputs, score, name) for name in (FORGET, HOLDOUT))
    sizes = [len(members), len(others)]
    all_members, all_others = (np.arange(size)[None] for size in sizes)
    return MetricValue(
        value=float(statistic(members, others, all_members, all_others)[0]),
        interval=compute_interval(
            lambda member_BP, other_BN: statistic(members, others, member_BP, other_BN), sizes, inputs.resampling
        ),
        count=sum(sizes),
    )


def _compute_member_scores(inputs: DerivedMetricInputs, score: str, set_name: str) -> Floats:
    """Return a number per row that is higher for members: the scores are losses, so their opposite."""
    if score == "reference":
        ours, theirs = get_paired_values(inputs, set_name, "loss")
        return theirs - ours
    return -get_values(inputs.measurements, set_name, score)
