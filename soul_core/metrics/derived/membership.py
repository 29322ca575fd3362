"""Membership inference: how well a score of rows tells the forget set (members) from rows never seen (holdout)."""

from collections.abc import Callable

import numpy as np

from soul_core.metrics.aggregate import Floats, Indices, compute_interval
from soul_core.metrics.derived.inputs import DerivedMetricInputs, get_paired_values, get_values
from soul_core.metrics.statistics import resampled_auc, resampled_tpr
from soul_core.report import MetricValue
from soul_core.spec import FORGET, HOLDOUT

#: Wrong alarms that an attacker allows who must not be wrong.
MAX_FALSE_POSITIVE_RATE = 0.01


def membership_auc(inputs: DerivedMetricInputs, *, score: str) -> dict[str, MetricValue]:
    """Return the AUC of a score, members on top; ties count half.

    Source: Yeom et al. (arXiv:1709.01604); forget against holdout as in MUSE (arXiv:2407.06460).
    """
    return {FORGET: _compare(inputs, score, resampled_auc)}


def membership_tpr(inputs: DerivedMetricInputs, *, score: str) -> dict[str, MetricValue]:
    """Return the share of members found at a threshold that wrongly finds at most FALSE_ALARMS of the others.

    Source: Carlini et al. (arXiv:2112.03570).
    """

    def tpr(members: Floats, others: Floats, member_BP: Indices, other_BN: Indices) -> Floats:
        return resampled_tpr(members, others, member_BP, other_BN, fpr=MAX_FALSE_POSITIVE_RATE)

    return {FORGET: _compare(inputs, score, tpr)}


def _compare(
    inputs: DerivedMetricInputs, score: str, statistic: Callable[[Floats, Floats, Indices, Indices], Floats]
) -> MetricValue:
    members, others = (_likeness(inputs, score, name) for name in (FORGET, HOLDOUT))
    all_of = [np.arange(len(rows))[None] for rows in (members, others)]
    return MetricValue(
        value=float(statistic(members, others, *all_of)[0]),
        interval=compute_interval(
            lambda indices: statistic(members, others, *indices), [len(members), len(others)], inputs.resampling
        ),
        count=len(members) + len(others),
    )


def _likeness(inputs: DerivedMetricInputs, score: str, set_name: str) -> Floats:
    """Return how much each row looks like a member: the scores are losses, so their opposite."""
    if score == "reference":
        ours, theirs = get_paired_values(inputs, set_name, "loss")
        return theirs - ours
    return -get_values(inputs.measurements, set_name, score)
