"""Derived metrics: values worked out by hand, and absent values with their reasons."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from soul_core.catalogue import METRIC_CATALOG, select_row_metrics
from soul_core.metrics.aggregate import Resampling, summarize
from soul_core.metrics.derived import DERIVED_METRICS, add_derived_metrics
from soul_core.report import MetricValue, ModelMeasurements
from soul_core.spec import ALL, Evaluation

RESAMPLING = Resampling(num_resamples=400, confidence=0.95, seed=0)
RNG = np.random.default_rng(3)


def make_model(**sets: dict[str, list[float | None]]) -> ModelMeasurements:
    """Return a model's measurements from set -> metric -> values of rows, which are numbered from 1."""
    return ModelMeasurements(
        sets={
            name: {
                metric: summarize(values, RESAMPLING, aggregate=METRIC_CATALOG[metric].get_aggregate(name))
                for metric, values in metrics.items()
            }
            for name, metrics in sets.items()
        },
        rows={name: tuple(range(1, 1 + max(map(len, metrics.values())))) for name, metrics in sets.items()},
    )


def compute_metric(
    metric: str, measurements: ModelMeasurements, retrained: ModelMeasurements | None = None, *, home: str = "forget"
) -> MetricValue:
    evaluation = Evaluation(metrics=(metric,), bootstrap=400)
    return add_derived_metrics(measurements, retrained, evaluation, 0).sets[home][metric]


def make_membership_model(forget: list[float], holdout: list[float], *, score: str = "loss") -> ModelMeasurements:
    return make_model(forget={score: forget}, holdout={score: holdout})


def utility_sets(probability: float = 0.8, *, rows: int = 6) -> dict[str, dict[str, list[float | None]]]:
    return {
        name: {
            ("probability" if name == "retain" else "probability_normalized"): [probability] * rows,
            "rouge_l": [0.5] * rows,
            "truth_ratio": [0.6] * rows,
        }
        for name in ("retain", "real_authors", "world_facts")
    }


def test_table_and_catalog_name_the_same_metrics() -> None:
    assert list(DERIVED_METRICS) == [name for name, entry in METRIC_CATALOG.items() if entry.scope != "row"]
    assert all(
        METRIC_CATALOG[metric].scope == "row" for name in DERIVED_METRICS for _, metric in METRIC_CATALOG[name].inputs
    )


def test_members_with_less_loss_are_found_and_equal_rows_are_not() -> None:
    separable = make_membership_model([0.1, 0.2, 0.3], [1.0, 1.1])
    assert compute_metric("mia_loss", separable).value == 1.0
    assert compute_metric("tpr_loss", separable).value == 1.0
    assert compute_metric("mia_loss", make_membership_model([1.0, 2.0], [1.0, 2.0])).value == 0.5
    assert compute_metric("mia_loss", make_membership_model([5.0, 6.0], [1.0, 2.0])).value == 0.0


def test_every_score_has_an_auc() -> None:
    for score in ("zlib", "min_k", "min_k_plus", "gradient_norm"):
        assert compute_metric(f"mia_{score}", make_membership_model([0.1], [0.2], score=score)).value == 1.0


def test_the_reference_attack_compares_rows_under_both_models() -> None:
    ours = make_membership_model([1.0, 3.0, 5.0], [1.0, 3.0, 5.0])
    retrained = make_membership_model([2.0, 4.0, 6.0], [1.0, 3.0, 5.0])
    assert compute_metric("mia_loss", ours).value == 0.5
    assert compute_metric("mia_reference", ours, retrained).value == 1.0
    difference = compute_metric("reference_loss", ours, retrained)
    assert difference.per_example == (-1.0, -1.0, -1.0)
    assert compute_metric("reference_loss", ours, retrained, home="holdout").value == 0.0


def test_the_auc_interval_covers_the_true_auc_as_often_as_its_level() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(150):
        measurements = make_membership_model(list(rng.normal(0, 1, 40)), list(rng.normal(0, 1, 40)))
        low, high = compute_metric("mia_loss", measurements).interval or (1, 0)
        covered += low <= 0.5 <= high
    assert 133 <= covered <= 149


def test_forget_quality_is_the_published_test_on_the_rows_of_both_models() -> None:
    ours, theirs = list(RNG.random(50)), list(RNG.random(50) ** 2)
    result = compute_metric(
        "forget_quality", make_model(forget={"truth_ratio": ours}), make_model(forget={"truth_ratio": theirs})
    )
    assert result.value == pytest.approx(ks_2samp(ours, theirs).pvalue, rel=1e-12)
    part = compute_metric(
        "forget_quality", make_model(forget={"truth_ratio": ours[:20]}), make_model(forget={"truth_ratio": theirs})
    )
    assert part.value == pytest.approx(ks_2samp(ours[:20], theirs[:20]).pvalue, rel=1e-12)
    assert part.count == 20


def test_the_retrained_model_itself_has_forget_quality_one_and_no_leak() -> None:
    measurements = make_model(
        forget={"truth_ratio": list(RNG.random(40)), "min_k": list(RNG.random(40))},
        holdout={"min_k": list(RNG.random(40))},
    )
    assert compute_metric("forget_quality", measurements, measurements).interval == (1.0, 1.0)
    leak = compute_metric("privleak", measurements, measurements)
    assert leak.value == 0
    assert leak.interval == (0, 0)


def test_the_forget_quality_interval_contains_its_value() -> None:
    for shift in (0.0, 0.1, 0.5):
        sample = RNG.random(60)
        result = compute_metric(
            "forget_quality",
            make_model(forget={"truth_ratio": list(sample)}),
            make_model(forget={"truth_ratio": list(RNG.random(60) + shift)}),
        )
        assert result.value is not None
        assert result.interval is not None
        assert result.interval[0] <= result.value <= result.interval[1]
    assert result.interval[1] < 0.05


def test_privleak_is_negative_if_members_show_and_positive_if_overhidden() -> None:
    retrained = make_membership_model([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 0.5], score="min_k")
    shown = make_membership_model([0.1, 0.1, 0.1, 0.1], [1.5, 2.5, 3.5, 0.5], score="min_k")
    hidden = make_membership_model([9.0, 9.0, 9.0, 9.0], [1.5, 2.5, 3.5, 0.5], score="min_k")
    assert compute_metric("privleak", shown, retrained).value == -100
    leak = compute_metric("privleak", hidden, retrained).value
    assert leak is not None
    assert leak == pytest.approx((1 - 10 / 16) / (10 / 16) * 100)


def test_model_utility_is_the_harmonic_mean_of_nine_abilities() -> None:
    abilities = [0.8] * 3 + [0.5] * 3 + [0.4] * 3
    result = compute_metric("model_utility", make_model(**utility_sets()), home=ALL)
    assert result.value == pytest.approx(9 / sum(1 / value for value in abilities))
    lost = utility_sets()
    lost["world_facts"]["rouge_l"] = [0.0] * 6
    assert compute_metric("model_utility", make_model(**lost), home=ALL).value == 0


def test_model_utility_ignores_rows_without_a_value() -> None:
    sets = utility_sets(rows=12)
    sets["retain"]["rouge_l"] = [0.5, None] + [0.5] * 10
    result = compute_metric("model_utility", make_model(**sets), home=ALL)
    assert result.value == pytest.approx(compute_metric("model_utility", make_model(**utility_sets()), home=ALL).value)
    assert result.interval is not None


@pytest.mark.parametrize(
    ("metric", "home", "reason"),
    [
        ("mia_loss", "forget", "no holdout set was given"),
        ("privleak", "forget", "no model retrained"),
        ("forget_quality", "forget", "no model retrained"),
        ("model_utility", ALL, "not given: real_authors, world_facts"),
    ],
)
def test_a_missing_input_is_the_absent_reason(metric: str, home: str, reason: str) -> None:
    alone = make_model(
        forget={"loss": [1.0, 2.0], "min_k": [1.0, 2.0], "truth_ratio": [1.0, 2.0]}, retain={"rouge_l": [1.0]}
    )
    result = compute_metric(metric, alone, home=home)
    assert result.value is None
    assert reason in (result.absent_reason or "")


def test_the_reason_of_an_absent_row_metric_is_passed_on() -> None:
    bare = ModelMeasurements(
        sets={"forget": {"truth_ratio": MetricValue(value=None, absent_reason="no wrong answers")}},
        rows={"forget": (1,)},
    )
    assert "no wrong answers" in (compute_metric("forget_quality", bare, bare).absent_reason or "")
    mine = make_model(forget={"truth_ratio": [1.0, 2.0]})
    assert "of the retrained model" in (compute_metric("forget_quality", mine, bare).absent_reason or "")


def test_a_retrained_model_measured_on_other_rows_is_not_compared() -> None:
    mine = make_model(forget={"truth_ratio": [1.0, 2.0]})
    theirs = mine.model_copy(update={"rows": {"forget": (7, 8)}})
    assert "other rows" in (compute_metric("forget_quality", mine, theirs).absent_reason or "")


def test_without_a_forget_set_its_metrics_are_left_out() -> None:
    result = add_derived_metrics(
        make_model(retain={"loss": [1.0]}), None, Evaluation(metrics=("mia_loss", "model_utility")), 0
    )
    assert set(result.sets) == {"retain", ALL}


def test_the_row_metrics_of_a_derived_metric_are_measured_on_its_sets() -> None:
    metrics = ("probability", "mia_min_k", "model_utility")
    assert select_row_metrics(metrics, "forget") == ("probability", "min_k")
    assert select_row_metrics(metrics, "holdout") == ("probability", "min_k")
    assert select_row_metrics(metrics, "world_facts") == (
        "probability",
        "probability_normalized",
        "rouge_l",
        "truth_ratio",
    )
    assert select_row_metrics(metrics, "general") == ("probability",)
