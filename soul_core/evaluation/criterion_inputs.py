"""The measurements that one criterion reads: of the models as they are, or under an attack.

`verdict` decides by them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from soul_core.catalogue import METRIC_CATALOG, Aggregate
from soul_core.metrics.aggregate import Resampling, compute_gain
from soul_core.report import MetricValue, ModelMeasurements
from soul_core.spec import Criterion


@dataclass(frozen=True)
class AttackedModel:
    """The measurements of one model on the rows of an attack, before and under it."""

    before: ModelMeasurements
    after: ModelMeasurements


@dataclass(frozen=True)
class AttackedModels:
    """One attack as the criteria read it; None: it was not run on that model, and the reason if it is known."""

    judged: AttackedModel | None = None
    base: AttackedModel | None = None
    retrained: AttackedModel | None = None
    judged_absent_reason: str | None = None
    retrained_absent_reason: str | None = None


@dataclass(frozen=True)
class CriterionInputs:
    """The measurements that one criterion reads; None: there are none."""

    judged: ModelMeasurements | None
    base: ModelMeasurements | None
    retrained: ModelMeasurements | None
    judged_absent_reason: str = ""
    base_absent_reason: str = "no base model was given to compare with; give one, or an absolute bound"
    retrained_absent_reason: str = (
        "no retrained model was given to compare with; give one (or its log), or a bound relative to the base model"
    )


def select_attack_inputs(
    criterion: Criterion, attacks: Mapping[str, AttackedModels], plain: CriterionInputs, resampling: Resampling
) -> CriterionInputs:
    """Return the inputs of a criterion on an attack.

    Args:
        attacks: Label of the attack -> the models under it.
        plain: The models without an attack.
    """
    assert criterion.attack is not None
    attack = attacks.get(criterion.attack, AttackedModels())
    not_run = f"the attack {criterion.attack} was not run"
    judged, base, retrained = attack.judged, attack.base, attack.retrained
    reasons = {"judged_absent_reason": f"{not_run}: {attack.judged_absent_reason or 'no attack of this name'}"}
    if plain.retrained is not None:
        why = attack.retrained_absent_reason or "it has no result for it"
        reasons["retrained_absent_reason"] = f"{not_run} on the retrained model: {why}"
    return CriterionInputs(
        judged=None if judged is None else _select_attacked(judged, criterion, resampling),
        base=None if base is None else base.before,
        retrained=None if retrained is None else _select_attacked(retrained, criterion, resampling),
        **reasons,
    )


def _select_attacked(model: AttackedModel, criterion: Criterion, resampling: Resampling) -> ModelMeasurements:
    """Return a model under an attack; for a gain, what the attack brought back, as the value of the metric."""
    if not criterion.gain:
        return model.after
    before, after = (get_value(measured, criterion) for measured in (model.before, model.after))
    gain = compute_gain(before, after, resampling, aggregate=get_aggregate(criterion))
    return ModelMeasurements(sets={criterion.set: {criterion.metric: gain}}, rows=model.after.rows)


def get_aggregate(criterion: Criterion) -> Aggregate:
    """Return how the rows' values of a criterion's metric are aggregated."""
    entry = METRIC_CATALOG.get(criterion.metric)
    return entry.get_aggregate(criterion.set) if entry else "mean"


def get_value(model: ModelMeasurements, criterion: Criterion) -> MetricValue:
    """Return the criterion's metric; absent with the reason if it was not measured."""
    if criterion.set not in model.sets:
        return MetricValue(value=None, absent_reason=f"no {criterion.set} set was given")
    if criterion.metric not in model.sets[criterion.set]:
        return MetricValue(value=None, absent_reason=f"{criterion.metric} is not among the metrics of the spec")
    return model.sets[criterion.set][criterion.metric]
