"""How much less likely a row is than under the retrained model."""

from soul_core.metrics.aggregate import summarize
from soul_core.metrics.derived.inputs import DerivedMetricInputs, MetricInputMissing, get_row_values
from soul_core.report import MetricValue
from soul_core.spec import FORGET, HOLDOUT


def reference_loss(inputs: DerivedMetricInputs) -> dict[str, MetricValue]:
    """Return each row's loss minus its loss under the retrained model; rows that one of them lacks have no value.

    Source: Carlini et al. (arXiv:2012.07805): a model's perplexity beside another's.
    """
    retrained = inputs.require_retrained()
    values = {}
    for name in (FORGET, HOLDOUT):
        if name != FORGET and name not in inputs.measurements.rows:
            continue
        ours = get_row_values(inputs.measurements, name, "loss")
        try:
            theirs = get_row_values(retrained, name, "loss")
        except MetricInputMissing as error:
            raise MetricInputMissing(f"of the retrained model: {error}") from error
        numbers = inputs.measurements.rows.get(name) or tuple(ours)
        differences = [ours[row] - theirs[row] if row in ours and row in theirs else None for row in numbers]
        values[name] = summarize(differences, inputs.resampling)
    return values
