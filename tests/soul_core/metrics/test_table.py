"""The table of row metrics against its catalog, the default spec and the documentation."""

import math
import subprocess
import sys

import pytest

from soul_core.catalogue import METRIC_CATALOG
from soul_core.metrics import METRICS
from soul_core.metrics.observed import AlternativeLosses, Continuation, InferenceResult, SampledAnswers
from soul_core.spec import DEFAULT_CRITERIA, Evaluation
from tests.paths import ROOT
from tests.soul_core.metrics.inferences import RESAMPLING, make_answers, make_scores


def test_table_catalog_and_default_spec_name_the_same_metrics() -> None:
    assert list(METRICS) == [name for name, entry in METRIC_CATALOG.items() if entry.scope == "row"]
    assert all(name == entry.name for name, entry in METRIC_CATALOG.items())
    assert set(Evaluation().metrics) <= set(METRIC_CATALOG)


def test_the_catalog_imports_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import soul_core.catalogue as c; print(len(c.METRIC_CATALOG))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(process.stdout) == len(METRIC_CATALOG)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_a_value_per_row_inside_its_range_and_its_interval(metric: str) -> None:
    likelihoods = make_scores("110", "011", "111", "000", z=0.3)
    answers = make_answers(*[("red blue green", "red green")] * 4).answers
    inference = InferenceResult(
        rows=likelihoods.rows,
        expected_texts=("red blue green",) * 4,
        scores=likelihoods.scores,
        alternatives=(AlternativeLosses(0.7, (0.9, 1.1)),) * 4,
        answers=answers,
        samples=(SampledAnswers(1, "", "red blue green", {1.0: ("red green", "green blue red")}),) * 4,
        few_shot_answers=answers,
        continuations=dict.fromkeys((100, 200, 300), (Continuation(1, "red blue green", "red green"),) * 4),
        gradient_norms=(1.0, 2.0, 3.0, 4.0),
    )
    result = METRICS[metric](inference, RESAMPLING)
    entry = METRIC_CATALOG[metric]
    assert result.count == 4
    assert result.value is not None
    assert result.interval is not None
    assert result.per_example is not None
    assert len(result.per_example) == 4
    assert (-math.inf if entry.low is None else entry.low) <= result.value <= (entry.high or math.inf)
    assert result.interval[0] <= result.value + 1e-12
    assert result.value <= result.interval[1] + 1e-12


def test_the_documentation_has_a_line_for_every_metric_and_every_default_bound() -> None:
    page = (ROOT / "docs" / "reference" / "evaluation.md").read_text()
    criteria_page = (ROOT / "docs" / "reference" / "criteria.md").read_text()
    table = page[page.index("## Metrics") : page.index("## Intervals")]
    names = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
    assert names == [f"`{name}`" for name in METRIC_CATALOG]
    for criterion in (criterion for criteria in DEFAULT_CRITERIA.values() for criterion in criteria):
        bound = f"at most {criterion.at_most}" if criterion.at_most is not None else f"at least {criterion.at_least}"
        unit = " times the base's" if criterion.relative_to_base else ""
        assert f"| {criterion.set} | `{criterion.metric}` | {bound}{unit} |" in criteria_page
