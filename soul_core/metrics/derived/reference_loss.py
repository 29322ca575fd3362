"""How much less likely a row is than under the retrained model."""

from soul_core.metrics.aggregate import summarise
from soul_core.metrics.derived.inputs import Inputs, NotThereError, rows_of
from soul_core.report import MetricValue
from soul_core.spec import FORGET, HOLDOUT


def reference_loss(inputs: Inputs) -> dict[str, MetricValue]:
    """Return each row's loss minus its loss under the retrained model; rows that one of them lacks have no value.

    Source: Carlini et al. (arXiv:2012.07805): a model's perplexity beside another's.
    """
    reference = inputs.need_reference()
    values = {}
    for name in (FORGET, HOLDOUT):
        if name != FORGET and name not in inputs.model.rows:
            continue
        ours = rows_of(inputs.model, name, "loss")
        try:
            theirs = rows_of(reference, name, "loss")
        except NotThereError as error:
            raise NotThereError(f"of the retrained model: {error}") from error
        numbers = inputs.model.rows.get(name) or tuple(ours)
        differences = [ours[row] - theirs[row] if row in ours and row in theirs else None for row in numbers]
        values[name] = summarise(differences, inputs.resampling)
    return values
