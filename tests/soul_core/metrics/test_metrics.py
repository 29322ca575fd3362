"""Each metric on numbers made by hand, and the table against its catalogue."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from rouge_score import rouge_scorer

from soul_core.catalogue import METRIC_CATALOG
from soul_core.metrics import METRICS
from soul_core.metrics.aggregate import Resampling, compute_ratio_interval, summarize
from soul_core.metrics.observed import AlternativeLosses, Continuation, GeneratedAnswer, InferenceResult, TokenScores
from soul_core.metrics.rouge_words import compute_rouge_l
from soul_core.report import MetricValue
from soul_core.spec import DEFAULT_CRITERIA, Evaluation
from tests.paths import ROOT

RESAMPLING = Resampling(num_resamples=200, confidence=0.95, seed=0)


def scored(*hit_rows: str, nll: float = 0.5, num_end: int = 0, z: float = 0.0) -> InferenceResult:
    """One row for each string: '1' is a first choice, '0' is not."""
    scores = tuple(
        TokenScores(i, (nll,) * len(hits), tuple(c == "1" for c in hits), num_end, (z,) * len(hits))
        for i, hits in enumerate(hit_rows, start=1)
    )
    return InferenceResult(rows=tuple(s.row for s in scores), scores=scores)


def answered(*pairs: tuple[str, str] | None, asked: str = "") -> InferenceResult:
    answers = tuple(
        p and GeneratedAnswer(row=i, prompt=asked, expected=p[0], generated=p[1]) for i, p in enumerate(pairs, start=1)
    )
    return InferenceResult(rows=tuple(range(1, len(pairs) + 1)), answers=answers)


def per_example(metric: str, observed: InferenceResult) -> list[float | None]:
    values = METRICS[metric](observed, RESAMPLING).per_example
    assert values is not None
    return list(values)


def test_table_catalogue_and_default_spec_name_the_same_metrics() -> None:
    assert list(METRICS) == [name for name, entry in METRIC_CATALOG.items() if entry.scope == "row"]
    assert all(name == entry.name for name, entry in METRIC_CATALOG.items())
    assert set(Evaluation().metrics) <= set(METRIC_CATALOG)


def test_catalogue_is_read_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import soul_core.catalogue as c; print(len(c.METRIC_CATALOG))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == len(METRIC_CATALOG)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_keeps_one_value_a_row_inside_its_range_and_its_interval(metric: str) -> None:
    both = scored("110", "011", "111", "000", z=0.3)
    answers = answered(*[("red blue green", "red green")] * 4).answers
    observed = InferenceResult(
        rows=both.rows,
        expected_texts=("red blue green",) * 4,
        scores=both.scores,
        alternatives=(AlternativeLosses(0.7, (0.9, 1.1)),) * 4,
        answers=answers,
        few_shot_answers=answers,
        continuations=dict.fromkeys((100, 200, 300), (Continuation(1, "red blue green", "red green"),) * 4),
        gradient_norms=(1.0, 2.0, 3.0, 4.0),
    )
    result = METRICS[metric](observed, RESAMPLING)
    entry = METRIC_CATALOG[metric]
    assert result.count == 4
    assert result.value is not None
    assert result.interval is not None
    assert result.per_example is not None
    assert len(result.per_example) == 4
    assert (-math.inf if entry.low is None else entry.low) <= result.value <= (entry.high or math.inf)
    assert result.interval[0] <= result.value + 1e-12
    assert result.value <= result.interval[1] + 1e-12


def test_probability_is_the_geometric_mean_token_probability() -> None:
    scores = (TokenScores(row=1, nll=(-math.log(0.5), -math.log(0.125)), hits=(True, False), num_end=0),)
    assert per_example("probability", InferenceResult(rows=(1,), scores=scores)) == [pytest.approx(0.25)]


def test_exact_memorization_counts_first_choices_but_not_the_end_of_answer() -> None:
    assert per_example("exact_memorization", scored("1010")) == [0.5]
    assert per_example("exact_memorization", scored("0001", num_end=1)) == [0.0]


@pytest.mark.parametrize(
    ("hits", "strength"), [("1111", 1.0), ("0111", 0.75), ("1011", 0.5), ("1101", 0.25), ("1110", 0.0), ("0000", 0.0)]
)
def test_extraction_strength_is_the_share_completed_exactly_and_reaches_zero(hits: str, strength: float) -> None:
    assert per_example("extraction_strength", scored(hits)) == [strength]


def test_extraction_strength_does_not_count_the_end_of_answer_every_chat_model_predicts() -> None:
    assert per_example("extraction_strength", scored("0001", num_end=1)) == [0.0]
    assert per_example("extraction_strength", scored("0111", num_end=1)) == [pytest.approx(2 / 3)]


def test_a_row_of_nothing_but_the_end_of_answer_has_no_memorization_and_is_not_counted() -> None:
    result = METRICS["exact_memorization"](scored("1", "11", num_end=1), RESAMPLING)
    assert result.per_example == (None, 1.0)
    assert result.count == 1


def test_perplexity_weighs_tokens_not_rows() -> None:
    scores = (
        TokenScores(row=1, nll=(1.0,) * 9, hits=(True,) * 9, num_end=0),
        TokenScores(row=2, nll=(6.0,), hits=(True,), num_end=0),
    )
    result = METRICS["perplexity"](InferenceResult(rows=(1, 2), scores=scores), RESAMPLING)
    assert result.value == pytest.approx(math.exp(15 / 10))
    assert result.per_example == (pytest.approx(math.e), pytest.approx(math.exp(6)))


def test_perplexity_of_a_ruined_model_is_a_number() -> None:
    result = METRICS["perplexity"](scored("00", "00", nll=5000.0), RESAMPLING)
    assert result.value is not None
    assert math.isfinite(result.value)


def test_rouge_is_recall_with_stems_in_order() -> None:
    pairs = [("Paris is the capital", "the capital is Paris"), ("running dogs", "It runs: a dog!"), ("yes", "")]
    assert per_example("rouge_l", answered(*pairs)) == [0.5, 1.0, 0.0]


def test_rouge_reads_any_script_and_leaves_out_rows_without_words() -> None:
    assert per_example(
        "rouge_l", answered(("東京", "東京"), ("Tokyo", "Tokyo"), ("東京", "京都"), ("!", "!"), None)
    ) == [
        1.0,
        1.0,
        0.0,
        None,
        None,
    ]
    nothing = METRICS["rouge_l"](answered(("?!", "?!")), RESAMPLING)
    assert nothing.value is None
    assert nothing.absent_reason == "no expected answer has words"


def test_rouge_of_english_is_the_published_packages_to_the_digit(shared_data: Path) -> None:
    lines = (shared_data / "tofu" / "forget10_perturbed.json").read_text().splitlines()[:150]
    rows = list(map(json.loads, lines))
    pairs = [(row["answer"], wrong) for row in rows for wrong in (*row["perturbed_answer"], row["paraphrased_answer"])]
    published = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)

    ours = [compute_rouge_l(*pair, prompt="What is it?", use_stemmer=True) for pair in pairs]

    assert len(pairs) > 300
    assert ours == [published.score(*pair)["rougeL"] for pair in pairs]


def test_keyword_recall_judges_the_fact_and_not_the_template() -> None:
    pairs = [
        ("The capital of France is Paris.", "The capital of France is Rome."),
        ("The capital of France is Paris.", "It's PARIS!"),
        ("It lies on the Seine, in the north.", "North, at a river."),
        ("France is a capital.", "anything"),
        ("It is 東京", "東京です"),
        None,
    ]
    values = per_example("keyword_recall", answered(*pairs, asked="What is the capital of France?"))
    assert values == [0.0, 1.0, pytest.approx(1 / 3), None, 1.0, None]
    rouge = per_example("rouge_l", answered(pairs[0]))
    assert rouge == [pytest.approx(5 / 6)]


def test_keyword_recall_without_any_keyword_is_absent() -> None:
    result = METRICS["keyword_recall"](answered(("the capital", "x"), asked="Which capital?"), RESAMPLING)
    assert result.value is None
    assert "question" in (result.absent_reason or "")


def test_a_value_that_is_not_finite_makes_the_metric_absent() -> None:
    result = summarize([1.0, math.nan, None], RESAMPLING)
    assert result == MetricValue(value=None, absent_reason="1 of 3 rows gave a value that is not finite")


def test_one_row_or_no_resamples_give_no_interval() -> None:
    assert summarize([0.3], RESAMPLING).interval is None
    assert summarize([0.3, 0.4], Resampling(num_resamples=0, confidence=0.95, seed=0)).interval is None


def test_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    import numpy as np

    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(200):
        result = summarize(list(rng.random(40)), Resampling(num_resamples=300, confidence=0.9, seed=trial))
        assert result.interval is not None
        covered += result.interval[0] <= 0.5 <= result.interval[1]
    assert 165 <= covered <= 195


def test_pairing_rows_shows_a_steady_ratio_that_unpaired_intervals_hide() -> None:
    base = summarize([0.02 * i for i in range(1, 41)], RESAMPLING)
    model = summarize([0.019 * i for i in range(1, 41)], RESAMPLING)
    ratio = compute_ratio_interval(model, base, RESAMPLING, aggregate="mean")
    assert ratio == (pytest.approx(0.95), pytest.approx(0.95))
    assert model.interval is not None
    assert base.value is not None
    assert model.interval[1] - model.interval[0] > 0.15 * base.value


def test_no_ratio_where_the_base_may_be_zero_or_the_rows_differ() -> None:
    base = summarize([0.0, 0.0, 0.1], RESAMPLING)
    assert compute_ratio_interval(base, base, RESAMPLING, aggregate="mean") is None
    assert compute_ratio_interval(summarize([0.1], RESAMPLING), base, RESAMPLING, aggregate="mean") is None
    assert compute_ratio_interval(summarize([0.1] * 3, RESAMPLING), base, RESAMPLING, aggregate="mean") is None


def test_the_documentation_has_a_line_for_every_metric_and_every_default_bound() -> None:
    page = (ROOT / "docs" / "evaluation.md").read_text()
    table = page[page.index("## Metrics") : page.index("## Intervals")]
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| `")]
    assert rows == [f"`{name}`" for name in METRIC_CATALOG]
    for criterion in (one for of_kind in DEFAULT_CRITERIA.values() for one in of_kind):
        bound = f"at most {criterion.at_most}" if criterion.at_most is not None else f"at least {criterion.at_least}"
        of_base = " times the base's" if criterion.relative_to_base else ""
        assert f"| {criterion.set} | `{criterion.metric}` | {bound}{of_base} |" in page
