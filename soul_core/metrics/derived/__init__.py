"""The table of derived metrics, computed from row metrics: across sets of a model, or against the retrained model.

A new metric: write its function (`DerivedMetricInputs` -> set name -> value), add a line to `DERIVED_METRICS` and an
entry to `soul_core.catalogue.derived_entries`. `add_derived_metrics` runs after all models are measured.
"""

from collections.abc import Callable
from functools import partial

from soul_core.catalogue import METRIC_CATALOG
from soul_core.metrics.aggregate import Resampling, make_absent_value
from soul_core.metrics.derived.forget_quality import forget_quality
from soul_core.metrics.derived.inputs import DerivedMetricInputs, MetricInputMissing
from soul_core.metrics.derived.membership import membership_auc, membership_tpr
from soul_core.metrics.derived.model_utility import model_utility
from soul_core.metrics.derived.privleak import privleak
from soul_core.metrics.derived.reference_loss import reference_loss
from soul_core.metrics.derived.relative_mmd import relative_mmd, relative_mmd_p
from soul_core.report import MetricValue, ModelMeasurements
from soul_core.spec import FORGET, Evaluation

DERIVED_METRICS: dict[str, Callable[[DerivedMetricInputs], dict[str, MetricValue]]] = {
    "mia_loss": partial(membership_auc, score="loss"),
    "mia_zlib": partial(membership_auc, score="zlib"),
    "mia_min_k": partial(membership_auc, score="min_k"),
    "mia_min_k_plus": partial(membership_auc, score="min_k_plus"),
    "mia_gradient_norm": partial(membership_auc, score="gradient_norm"),
    "mia_reference": partial(membership_auc, score="reference"),
    "tpr_loss": partial(membership_tpr, score="loss"),
    "tpr_zlib": partial(membership_tpr, score="zlib"),
    "tpr_min_k": partial(membership_tpr, score="min_k"),
    "tpr_min_k_plus": partial(membership_tpr, score="min_k_plus"),
    "tpr_gradient_norm": partial(membership_tpr, score="gradient_norm"),
    "tpr_reference": partial(membership_tpr, score="reference"),
    "reference_loss": reference_loss,
    "forget_quality": forget_quality,
    "relative_mmd": relative_mmd,
    "relative_mmd_p": relative_mmd_p,
    "privleak": privleak,
    "model_utility": model_utility,
}


def add_derived_metrics(
    measurements: ModelMeasurements,
    retrained: ModelMeasurements | None,
    evaluation: Evaluation,
    seed: int,
    *,
    base: ModelMeasurements | None = None,
) -> ModelMeasurements:
    """Return a model's measurements with the derived metrics that `evaluation` names.

    Metrics of the forget set are left out if no forget set was measured. A metric whose other inputs are missing is
    absent, with the reason.
    """
    inputs = DerivedMetricInputs(measurements, retrained, Resampling.of(evaluation, seed), base)
    sets = {name: dict(metrics) for name, metrics in measurements.sets.items()}
    for name in evaluation.metrics:
        home = METRIC_CATALOG[name].home_set
        if home is None or (home == FORGET and FORGET not in measurements.rows):
            continue
        try:
            values = DERIVED_METRICS[name](inputs)
        except MetricInputMissing as error:
            values = {home: make_absent_value(str(error))}
        for set_name, value in values.items():
            sets.setdefault(set_name, {})[name] = value
    return measurements.model_copy(update={"sets": sets})
