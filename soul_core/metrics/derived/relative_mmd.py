"""The relative three-sample test: which model a model's losses on the forget rows are nearer to, base or retrained.

A two-sample test asks whether a model equals the retrained model, which no unlearned model does; this asks only for the
side. Shapes: N rows that all three models have.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from soul_core.metrics.derived.inputs import DerivedMetricInputs, MetricInputMissing, get_row_values
from soul_core.metrics.statistics import Floats
from soul_core.report import Interval, MetricValue
from soul_core.spec import FORGET

#: Fewer rows do not give the variance of the statistic.
_MIN_ROWS = 5
#: Of more rows the seed selects so many: time and memory grow with their square.
_MAX_ROWS = 2000


@dataclass(frozen=True)
class RelativeTest:
    """The test's statistic, its standard error and p-value, over `num_rows` rows."""

    statistic: float
    standard_error: float
    num_rows: int

    @property
    def p_value(self) -> float:
        """The chance of a statistic at least this large if both distances are equal."""
        return self.translate(self.statistic)

    def translate(self, statistic: float) -> float:
        """Return the p-value of a statistic with this standard error; without one, 0 or 1."""
        return float(norm.sf(statistic / self.standard_error)) if self.standard_error else float(statistic <= 0)


def relative_mmd(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return MMD²(model, retrained) - MMD²(model, base): below 0 the model is nearer to the retrained model.

    Source: Bounliphone et al. 2016 (arXiv:1511.04581).
    """
    test = _run_test(inputs)
    low, high = _get_normal_ends(test, inputs)
    interval = (low, high) if inputs.resampling.num_resamples else None
    return {FORGET: MetricValue(value=test.statistic, interval=interval, count=test.num_rows)}


def relative_mmd_p(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return the p-value of the hypothesis that the model is at least as near to the retrained as to the base model.

    Its interval is that of the statistic, translated.
    """
    test = _run_test(inputs)
    interval: Interval | None = None
    if inputs.resampling.num_resamples:
        low, high = _get_normal_ends(test, inputs)
        interval = test.translate(high), test.translate(low)
    return {FORGET: MetricValue(value=test.p_value, interval=interval, count=test.num_rows)}


def compute_relative_test(model_N: Floats, retrained_N: Floats, base_N: Floats) -> RelativeTest:
    """Compare the squared MMD of two pairs of samples: model and retrained, model and base.

    Source: Bounliphone et al. 2016 (arXiv:1511.04581): Gaussian kernel, its width the mean of the median heuristics of
    both pairs (their code); the statistic is asymptotically normal.
    Differs from it: the three values of a row belong together, since all models answer the same rows. So the statistic
    is the U-statistic over pairs of *rows* (a row is not compared with itself in the mixed terms), and its variance is
    that of this U-statistic, of first and second order (Hoeffding 1948), which needs no independence between samples.

    Raises:
        MetricInputMissing: Too few rows, or the models do not differ.
    """
    num_rows = len(model_N)
    if num_rows < _MIN_ROWS:
        raise MetricInputMissing(f"the test needs at least {_MIN_ROWS} rows that all three models have")
    width = (_compute_width(model_N, retrained_N) + _compute_width(model_N, base_N)) / 2
    if width == 0:
        raise MetricInputMissing("the three models do not differ on these rows")

    def compute_kernel(a_N: Floats, b_N: Floats) -> Floats:
        kernel_NN: Floats = np.exp(-np.square(a_N[:, None] - b_N[None, :]) / (2 * width**2))
        return kernel_NN

    to_retrained_NN, to_base_NN = compute_kernel(model_N, retrained_N), compute_kernel(model_N, base_N)
    h_NN = compute_kernel(retrained_N, retrained_N) - to_retrained_NN - to_retrained_NN.T
    h_NN -= compute_kernel(base_N, base_N) - to_base_NN - to_base_NN.T
    np.fill_diagonal(h_NN, 0.0)
    num_pairs = num_rows * (num_rows - 1)
    statistic = h_NN.sum() / num_pairs
    first_order = np.var(h_NN.sum(axis=1) / (num_rows - 1), ddof=1)
    second_order = max(0.0, np.square(h_NN).sum() / num_pairs - statistic**2)
    variance = (4 * (num_rows - 2) * first_order + 2 * second_order) / num_pairs
    return RelativeTest(float(statistic), float(np.sqrt(variance)), num_rows)


def _compute_width(a_N: Floats, b_N: Floats) -> float:
    """Return the kernel's width by the median heuristic: half of the median squared distance, of those above 0."""
    distances = np.square(a_N[:, None] - b_N[None, :])
    distances = distances[distances > 0]
    return float(np.sqrt(np.median(distances) / 2)) if distances.size else 0.0


def _run_test(inputs: DerivedMetricInputs) -> RelativeTest:
    retrained, base = inputs.require_retrained(), inputs.require_base()
    values = [get_row_values(model, FORGET, "loss") for model in (inputs.measurements, retrained, base)]
    rows = [row for row in values[0] if all(row in of_model for of_model in values)]
    if len(rows) > _MAX_ROWS:
        chosen = np.random.default_rng(inputs.resampling.seed).choice(len(rows), _MAX_ROWS, replace=False)
        rows = [rows[i] for i in sorted(chosen)]
    return compute_relative_test(*(np.array([of_model[row] for row in rows]) for of_model in values))


def _get_normal_ends(test: RelativeTest, inputs: DerivedMetricInputs) -> Interval:
    """Return the ends of the statistic's normal interval at the spec's level."""
    reach = float(norm.isf((1 - inputs.resampling.confidence) / 2)) * test.standard_error
    return test.statistic - reach, test.statistic + reach
