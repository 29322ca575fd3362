"""PrivLeak: the AUC of membership inference by Min-K% relative to its AUC on the retrained model."""

import numpy as np

from soul_core.metrics.aggregate import compute_interval
from soul_core.metrics.derived.inputs import DerivedMetricInputs, MetricInputMissing, get_paired_values
from soul_core.metrics.statistics import Floats, Indices, resampled_auc
from soul_core.report import MetricValue
from soul_core.spec import FORGET, HOLDOUT


def privleak(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return (AUC - AUC of the retrained model) / AUC of the retrained model, in percent; AUC is MUSE's, 1 - ours.

    Both models are resampled on the same rows.
    Source: MUSE (arXiv:2407.06460), equation 5.
    """
    members, retrained_members = get_paired_values(inputs, FORGET, "min_k")
    others, retrained_others = get_paired_values(inputs, HOLDOUT, "min_k")

    def compute_leak(member_BP: Indices, other_BN: Indices) -> Floats:
        ours = 1 - resampled_auc(-members, -others, member_BP, other_BN)
        theirs = 1 - resampled_auc(-retrained_members, -retrained_others, member_BP, other_BN)
        with np.errstate(divide="ignore", invalid="ignore"):
            leak_B: Floats = (ours - theirs) / theirs * 100
        return leak_B

    sizes = [len(members), len(others)]
    value = float(compute_leak(*(np.arange(size)[None] for size in sizes))[0])
    if not np.isfinite(value):
        raise MetricInputMissing("the retrained model itself separates members from others perfectly")
    interval = compute_interval(compute_leak, sizes, inputs.resampling)
    return {FORGET: MetricValue(value=value, interval=interval, count=sum(sizes))}
