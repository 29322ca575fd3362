"""How much less likely a row is than under the retrained model."""

from soul_core.metrics.aggregate import summarize
from soul_core.metrics.derived.inputs import DerivedMetricInputs, get_both_row_values
from soul_core.report import MetricValue
from soul_core.spec import FORGET, HOLDOUT


def reference_loss(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return each row's loss minus its loss under the retrained model; rows that one of the two lacks have no value.

    Source: Carlini et al. (arXiv:2012.07805): a model's perplexity relative to another's.
    """
    values = {}
    for name in (FORGET, HOLDOUT):
        if name == HOLDOUT and name not in inputs.measurements.rows:
            continue
        ours, theirs = get_both_row_values(inputs, name, "loss")
        numbers = inputs.measurements.rows.get(name) or tuple(ours)
        differences = [ours[row] - theirs[row] if row in ours and row in theirs else None for row in numbers]
        values[name] = summarize(differences, inputs.resampling)
    return values
