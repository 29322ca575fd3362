"""Forget quality: whether the forget rows' truth ratios are distributed as the retrained model's."""

import numpy as np

from soul_core.metrics.aggregate import Resampling, compute_percentile_interval, resample
from soul_core.metrics.derived.inputs import DerivedMetricInputs, get_paired_values
from soul_core.metrics.statistics import Floats, ks_p_value, ks_p_value_of_gap, resampled_ks_gap
from soul_core.report import Interval, MetricValue
from soul_core.spec import FORGET


def forget_quality(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test.

    Source: TOFU (arXiv:2401.06121), section 3.
    Differs from TOFU: it has an interval.
    """
    ours, theirs = get_paired_values(inputs, FORGET, "truth_ratio")
    value = MetricValue(
        value=ks_p_value(ours, theirs), interval=_compute_interval(ours, theirs, inputs.resampling), count=len(ours)
    )
    return {FORGET: value}


def _compute_interval(ours: Floats, theirs: Floats, resampling: Resampling) -> Interval | None:
    """Resample rows, both models' values together, and shift the gaps so that their median is the measured gap.

    Rows that are drawn twice pull two samples of one distribution apart, so that plain resamples would almost rule out
    a high p-value.
    """
    num_rows = len(ours)
    gap_B = resample(lambda index_BN: resampled_ks_gap(ours, theirs, index_BN).astype(float), [num_rows], resampling)
    if gap_B is None:
        return None
    measured = resampled_ks_gap(ours, theirs, np.arange(num_rows)[None])[0]
    centered_B = np.clip(np.rint(gap_B - np.median(gap_B) + measured), 0, num_rows).astype(int)
    p_value_B = np.array([ks_p_value_of_gap(int(gap), num_rows) for gap in centered_B])
    return compute_percentile_interval(p_value_B, resampling)
