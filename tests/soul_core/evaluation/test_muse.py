"""MUSE's six ways, read off reports."""

from soul_core.evaluation.muse import MuseScore, compute_muse_scores
from soul_core.metrics.aggregate import Resampling, make_absent_value, summarize
from soul_core.report import DatasetFacts, MetricValue, ModelMeasurements, Report
from tests.fixtures.sample_report import sample_report


def value(x: float) -> MetricValue:
    return summarize([x, x], Resampling(10, 0.95, 0))


def report(*, utility: float | None = 0.8, rows: int = 10, base: str = "sha256:a") -> Report:
    sample = sample_report()
    known = make_absent_value("nothing was asked") if utility is None else value(utility)
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


def ways(*reports: Report) -> dict[str, MuseScore]:
    return {way.name: way for way in compute_muse_scores(reports)}


def test_one_report_gives_four_ways_and_says_what_the_others_need() -> None:
    found = ways(report())

    assert list(found) == ["verbatim", "knowledge", "privacy", "utility", "scalability", "sustainability"]
    assert {name: found[name].value for name in ("verbatim", "knowledge", "utility")} == {
        "verbatim": 0.3,
        "knowledge": 0.2,
        "utility": 0.8,
    }
    assert found["verbatim"].interval == (0.3, 0.3)
    assert found["privacy"].absent_reason == "the spec did not ask for privleak"
    assert "different sizes" in (found["scalability"].absent_reason or "")
    assert "one request after another" in (found["sustainability"].absent_reason or "")


def test_growing_forget_sets_of_one_model_give_scalability_in_order_of_size() -> None:
    found = ways(report(utility=0.4, rows=100), report(utility=0.8, rows=10), report(utility=0.6, rows=50))

    assert found["scalability"].value == 0.5
    assert [(p.num_forget_rows, p.utility) for p in found["scalability"].points] == [(10, 0.8), (50, 0.6), (100, 0.4)]
    assert found["sustainability"].value is None


def test_requests_on_each_others_models_give_sustainability_in_the_order_given() -> None:
    found = ways(report(utility=0.8, base="sha256:a"), report(utility=0.2, base="sha256:b"))

    assert found["sustainability"].value == 0.25
    assert found["scalability"].value is None
    assert found["utility"].value == 0.2


def test_a_series_with_a_gap_is_absent_with_the_gaps_reason() -> None:
    found = ways(report(base="sha256:a"), report(utility=None, base="sha256:b"))

    assert found["sustainability"].absent_reason == "a report has no utility: nothing was asked"
