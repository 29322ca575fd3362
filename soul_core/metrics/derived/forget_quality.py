"""Forget quality: whether the forget rows' truth ratios are distributed as the retrained model's."""

import numpy as np

from soul_core.metrics.aggregate import Floats, Resampling, compute_percentile_interval, resample
from soul_core.metrics.derived.inputs import DerivedMetricInputs, get_paired_values
from soul_core.metrics.statistics import ks_p_value, ks_p_value_of_gap, resampled_ks_gap
from soul_core.report import MetricValue
from soul_core.spec import FORGET


def forget_quality(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test.

    Source: TOFU (arXiv:2401.06121), section 3. The interval is ours.
    """
    ours, theirs = get_paired_values(inputs, FORGET, "truth_ratio")
    value = MetricValue(
        value=ks_p_value(ours, theirs), interval=_interval(ours, theirs, inputs.resampling), count=len(ours)
    )
    return {FORGET: value}


def _interval(ours: Floats, theirs: Floats, resampling: Resampling) -> tuple[float, float] | None:
    """Resample rows, both models' values together, and put the gaps' median where the measured gap is.

    Rows drawn twice tear two samples of one distribution apart, so that plain resamples would all but rule out a high
    p-value.
    """
    num_rows = len(ours)
    gap_B = resample(lambda indices: resampled_ks_gap(ours, theirs, indices[0]).astype(float), [num_rows], resampling)
    if gap_B is None:
        return None
    measured = resampled_ks_gap(ours, theirs, np.arange(num_rows)[None])[0]
    centered_B = np.clip(np.rint(gap_B - np.median(gap_B) + measured), 0, num_rows).astype(int)
    p_value_B = np.array([ks_p_value_of_gap(int(gap), num_rows) for gap in centered_B])
    return compute_percentile_interval(p_value_B, resampling)
