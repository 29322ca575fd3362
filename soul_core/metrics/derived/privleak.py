"""PrivLeak: membership inference by Min-K% against what it achieves on the retrained model."""

import numpy as np

from soul_core.metrics.aggregate import Floats, Indices, compute_interval
from soul_core.metrics.derived.inputs import DerivedMetricInputs, MetricInputMissing, get_paired_values
from soul_core.metrics.statistics import resampled_auc
from soul_core.report import MetricValue
from soul_core.spec import FORGET, HOLDOUT


def privleak(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return (AUC - AUC of the retrained) / AUC of the retrained, in percent, with MUSE's AUC: 1 - ours.

    Both models are resampled on the same rows.
    Source: MUSE (arXiv:2407.06460), equation 5.
    """
    members, theirs_members = get_paired_values(inputs, FORGET, "min_k")
    others, theirs_others = get_paired_values(inputs, HOLDOUT, "min_k")

    def leak(member_BP: Indices, other_BN: Indices) -> Floats:
        ours = 1 - resampled_auc(-members, -others, member_BP, other_BN)
        theirs = 1 - resampled_auc(-theirs_members, -theirs_others, member_BP, other_BN)
        with np.errstate(divide="ignore", invalid="ignore"):
            result: Floats = (ours - theirs) / theirs * 100
        return result

    value = float(leak(np.arange(len(members))[None], np.arange(len(others))[None])[0])
    if not np.isfinite(value):
        raise MetricInputMissing("the retrained model itself tells members from others perfectly")
    interval = compute_interval(lambda indices: leak(*indices), [len(members), len(others)], inputs.resampling)
    return {FORGET: MetricValue(value=value, interval=interval, count=len(members) + len(others))}
