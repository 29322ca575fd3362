"""Metrics made of finished ones: worked by hand, and absent with the reason where something is missing."""

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


def model(**sets: dict[str, list[float | None]]) -> ModelMeasurements:
    """One model: set -> metric -> a value a row, rows numbered from 1."""
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


def derived(
    metric: str, measured: ModelMeasurements, retrained: ModelMeasurements | None = None, *, home: str = "forget"
) -> MetricValue:
    evaluation = Evaluation(metrics=(metric,), bootstrap=400)
    return add_derived_metrics(measured, retrained, evaluation, 0).sets[home][metric]


def membership(forget: list[float], holdout: list[float], *, score: str = "loss") -> ModelMeasurements:
    return model(forget={score: forget}, holdout={score: holdout})


def utility_sets(probability: float = 0.8, *, rows: int = 6) -> dict[str, dict[str, list[float | None]]]:
    return {
        name: {
            ("probability" if name == "retain" else "probability_normalized"): [probability] * rows,
            "rouge_l": [0.5] * rows,
            "truth_ratio": [0.6] * rows,
        }
        for name in ("retain", "real_authors", "world_facts")
    }


def test_table_and_catalogue_name_the_same_metrics() -> None:
    assert list(DERIVED_METRICS) == [name for name, entry in METRIC_CATALOG.items() if entry.scope != "row"]
    assert all(
        METRIC_CATALOG[metric].scope == "row" for name in DERIVED_METRICS for _, metric in METRIC_CATALOG[name].inputs
    )


def test_members_with_less_loss_are_found_and_equal_ones_are_not() -> None:
    separable = membership([0.1, 0.2, 0.3], [1.0, 1.1])
    assert derived("mia_loss", separable).value == 1.0
    assert derived("tpr_loss", separable).value == 1.0
    assert derived("mia_loss", membership([1.0, 2.0], [1.0, 2.0])).value == 0.5
    assert derived("mia_loss", membership([5.0, 6.0], [1.0, 2.0])).value == 0.0


def test_every_score_has_its_own_auc() -> None:
    for score in ("zlib", "min_k", "min_k_plus", "gradient_norm"):
        assert derived(f"mia_{score}", membership([0.1], [0.2], score=score)).value == 1.0


def test_the_reference_attack_compares_each_row_with_itself_under_the_retrained_model() -> None:
    ours = membership([1.0, 3.0, 5.0], [1.0, 3.0, 5.0])
    retrained = membership([2.0, 4.0, 6.0], [1.0, 3.0, 5.0])
    assert derived("mia_loss", ours).value == 0.5
    assert derived("mia_reference", ours, retrained).value == 1.0
    difference = derived("reference_loss", ours, retrained)
    assert difference.per_example == (-1.0, -1.0, -1.0)
    assert derived("reference_loss", ours, retrained, home="holdout").value == 0.0


def test_the_auc_interval_covers_the_true_auc_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(150):
        measured = membership(list(rng.normal(0, 1, 40)), list(rng.normal(0, 1, 40)))
        low, high = derived("mia_loss", measured).interval or (1, 0)
        covered += low <= 0.5 <= high
    assert 133 <= covered <= 149


def test_forget_quality_is_the_published_test_on_the_rows_both_models_have() -> None:
    ours, theirs = list(RNG.random(50)), list(RNG.random(50) ** 2)
    found = derived("forget_quality", model(forget={"truth_ratio": ours}), model(forget={"truth_ratio": theirs}))
    assert found.value == pytest.approx(ks_2samp(ours, theirs).pvalue, rel=1e-12)
    part = derived("forget_quality", model(forget={"truth_ratio": ours[:20]}), model(forget={"truth_ratio": theirs}))
    assert part.value == pytest.approx(ks_2samp(ours[:20], theirs[:20]).pvalue, rel=1e-12)
    assert part.count == 20


def test_the_retrained_model_itself_has_forget_quality_one_without_doubt_and_no_leak() -> None:
    measured = model(
        forget={"truth_ratio": list(RNG.random(40)), "min_k": list(RNG.random(40))},
        holdout={"min_k": list(RNG.random(40))},
    )
    assert derived("forget_quality", measured, measured).interval == (1.0, 1.0)
    leak = derived("privleak", measured, measured)
    assert leak.value == 0
    assert leak.interval == (0, 0)


def test_the_forget_quality_interval_holds_its_value_and_a_far_model_is_far() -> None:
    for shift in (0.0, 0.1, 0.5):
        sample = RNG.random(60)
        found = derived(
            "forget_quality",
            model(forget={"truth_ratio": list(sample)}),
            model(forget={"truth_ratio": list(RNG.random(60) + shift)}),
        )
        assert found.value is not None
        assert found.interval is not None
        assert found.interval[0] <= found.value <= found.interval[1]
    assert found.interval[1] < 0.05


def test_privleak_is_negative_where_members_show_and_positive_where_they_are_hidden_too_well() -> None:
    retrained = membership([1.0, 2.0, 3.0, 4.0], [1.5, 2.5, 3.5, 0.5], score="min_k")
    shown = membership([0.1, 0.1, 0.1, 0.1], [1.5, 2.5, 3.5, 0.5], score="min_k")
    hidden = membership([9.0, 9.0, 9.0, 9.0], [1.5, 2.5, 3.5, 0.5], score="min_k")
    assert derived("privleak", shown, retrained).value == -100
    leak = derived("privleak", hidden, retrained).value
    assert leak is not None
    assert leak == pytest.approx((1 - 10 / 16) / (10 / 16) * 100)


def test_model_utility_is_the_harmonic_mean_of_nine_abilities_and_zero_with_one_lost() -> None:
    abilities = [0.8] * 3 + [0.5] * 3 + [0.4] * 3
    found = derived("model_utility", model(**utility_sets()), home=ALL)
    assert found.value == pytest.approx(9 / sum(1 / value for value in abilities))
    lost = utility_sets()
    lost["world_facts"]["rouge_l"] = [0.0] * 6
    assert derived("model_utility", model(**lost), home=ALL).value == 0


def test_model_utility_counts_rows_without_a_value_neither_way() -> None:
    sets = utility_sets(rows=12)
    sets["retain"]["rouge_l"] = [0.5, None] + [0.5] * 10
    found = derived("model_utility", model(**sets), home=ALL)
    assert found.value == pytest.approx(derived("model_utility", model(**utility_sets()), home=ALL).value)
    assert found.interval is not None


@pytest.mark.parametrize(
    ("metric", "home", "said"),
    [
        ("mia_loss", "forget", "no holdout set was given"),
        ("privleak", "forget", "no model retrained"),
        ("forget_quality", "forget", "no model retrained"),
        ("model_utility", ALL, "not given: real_authors, world_facts"),
    ],
)
def test_what_is_missing_is_named(metric: str, home: str, said: str) -> None:
    alone = model(
        forget={"loss": [1.0, 2.0], "min_k": [1.0, 2.0], "truth_ratio": [1.0, 2.0]}, retain={"rouge_l": [1.0]}
    )
    found = derived(metric, alone, home=home)
    assert found.value is None
    assert said in (found.absent_reason or "")


def test_a_row_metric_that_is_absent_hands_its_reason_on() -> None:
    bare = ModelMeasurements(
        sets={"forget": {"truth_ratio": MetricValue(value=None, absent_reason="no wrong answers")}},
        rows={"forget": (1,)},
    )
    assert "no wrong answers" in (derived("forget_quality", bare, bare).absent_reason or "")
    mine = model(forget={"truth_ratio": [1.0, 2.0]})
    assert "of the retrained model" in (derived("forget_quality", mine, bare).absent_reason or "")


def test_a_reference_measured_on_other_rows_is_not_compared() -> None:
    mine = model(forget={"truth_ratio": [1.0, 2.0]})
    theirs = mine.model_copy(update={"rows": {"forget": (7, 8)}})
    assert "other rows" in (derived("forget_quality", mine, theirs).absent_reason or "")


def test_without_a_forget_set_its_metrics_are_left_out() -> None:
    found = add_derived_metrics(
        model(retain={"loss": [1.0]}), None, Evaluation(metrics=("mia_loss", "model_utility")), 0
    )
    assert set(found.sets) == {"retain", ALL}


def test_the_row_metrics_a_derived_one_is_made_of_are_measured_where_they_are_needed() -> None:
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
