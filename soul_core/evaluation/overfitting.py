"""Overfitting of the retain set: rows that were trained on keep their level, and rows like them lose it."""

from soul_core.formatting import format_estimate, format_number
from soul_core.metrics.aggregate import Resampling, compute_ratio_interval
from soul_core.report import Interval, ModelMeasurements
from soul_core.spec import RETAIN, RETAIN_HELD_OUT

#: The retain set keeps its level if it has at least this factor of the base model's value. Ours.
MIN_RETAINED = 0.95
#: Held-out rows fall if their factor is smaller than the retain set's by more than this. Ours.
MARGIN = 0.05
_METRICS = ("probability", "keyword_recall")
_REMEDY = (
    "give more retain rows, hold the base model by KL (retain.kind 'kl'), add general text to the retain set, or lower "
    "the learning rate"
)


def find_overfitting(judged: ModelMeasurements, base: ModelMeasurements, resampling: Resampling) -> str | None:
    """Return a sentence, without its period, on the first metric that shows overfitting of the retain set, or None.

    It is shown where the retain set has at least 0.95 of the base model's value, the held-out rows have a factor that
    is smaller by more than 0.05, and their paired interval excludes 1. With intervals turned off the values decide.
    """
    for metric in _METRICS:
        retained, _ = _compute_factor(RETAIN, metric, judged, base, resampling)
        held_out, interval = _compute_factor(RETAIN_HELD_OUT, metric, judged, base, resampling)
        if retained is None or held_out is None or (interval is None and resampling.num_resamples > 0):
            continue
        is_lower = held_out < min(retained - MARGIN, 1.0) and (interval is None or interval[1] < 1)
        if retained >= MIN_RETAINED and is_lower:
            return (
                f"The retain set is overfitted: its {metric} is {format_number(retained)} times the base model's, and "
                f"that of retain rows that were not trained on {format_estimate(held_out, interval)} times; {_REMEDY}"
            )
    return None


def _compute_factor(
    name: str, metric: str, judged: ModelMeasurements, base: ModelMeasurements, resampling: Resampling
) -> tuple[float | None, Interval | None]:
    """Return the judged model's value as a factor of the base model's, with its interval; None if there is none."""
    after, before = judged.sets.get(name, {}).get(metric), base.sets.get(name, {}).get(metric)
    if after is None or before is None or after.value is None or not before.value:
        return None, None
    rows = judged.rows.get(name, ()), base.rows.get(name, ())
    interval = compute_ratio_interval(after, before, resampling, aggregate="mean", rows=rows if all(rows) else None)
    return after.value / before.value, interval
