"""MUSE's six scores, computed from reports."""

from soul_core.evaluation.muse import MuseScore, compute_muse_scores
from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.report import DatasetFacts, MetricValue, ModelMeasurements, Report
from tests.fixtures.sample_report import sample_report


def value(x: float) -> MetricValue:
    return summarize([x, x], Resampling(10, 0.95, 0))


def report(*, utility: float | None = 0.8, rows: int = 10, base: str = "sha256:a") -> Report:
    sample = sample_report()
    known = make_absent_value("the set has no questions") if utility is None else value(utility)
    sets = {
        "forget": {"verbatim_memorization": make_absent_value("it has prompts"), "knowledge_memorization": value(0.2)},
        "forget_texts": {"verbatim_memorization": value(0.3)},
        "retain": {"knowledge_memorization": known},
    }
    data = (DatasetFacts(name="forget", sha256="0", num_rows=rows, num_tokens=1, num_answer_tokens=1),)
    model = sample.model.model_copy(update={"digest": base})
    return sample.model_copy(
        update={"models": {"unlearned": ModelMeasurements(sets=sets)}, "data": data, "model": model}
    )


def compute_scores(*reports: Report) -> dict[str, MuseScore]:
    return {score.name: score for score in compute_muse_scores(reports)}


def test_one_report_gives_four_scores_and_the_reason_for_the_others() -> None:
    scores = compute_scores(report())

    assert list(scores) == ["verbatim", "knowledge", "privacy", "utility", "scalability", "sustainability"]
    assert {name: scores[name].value for name in ("verbatim", "knowledge", "utility")} == {
        "verbatim": 0.3,
        "knowledge": 0.2,
        "utility": 0.8,
    }
    assert scores["verbatim"].interval == (0.3, 0.3)
    assert scores["privacy"].absent_reason == "privleak is not among the metrics of the spec"
    assert "different sizes" in (scores["scalability"].absent_reason or "")
    assert "successive requests" in (scores["sustainability"].absent_reason or "")


def test_growing_forget_sets_of_one_model_give_scalability_by_size() -> None:
    scores = compute_scores(report(utility=0.4, rows=100), report(utility=0.8, rows=10), report(utility=0.6, rows=50))

    assert scores["scalability"].value == 0.5
    assert [(p.num_forget_rows, p.utility) for p in scores["scalability"].points] == [(10, 0.8), (50, 0.6), (100, 0.4)]
    assert scores["sustainability"].value is None


def test_successive_requests_give_sustainability_in_the_given_order() -> None:
    scores = compute_scores(report(utility=0.8, base="sha256:a"), report(utility=0.2, base="sha256:b"))

    assert scores["sustainability"].value == 0.25
    assert scores["scalability"].value is None
    assert scores["utility"].value == 0.2


def test_a_series_with_a_missing_value_is_absent_with_its_reason() -> None:
    scores = compute_scores(report(base="sha256:a"), report(utility=None, base="sha256:b"))

    assert scores["sustainability"].absent_reason == "a report has no utility: the set has no questions"
