"""ROUGE-L and BLEU: values by hand, the published package's numbers on real text, every script."""

import json
from pathlib import Path

import pytest
from rouge_score import rouge_scorer

from soul_core.metrics import METRICS
from soul_core.metrics.rouge_words import compute_rouge_l
from tests.soul_core.metrics.inferences import (
    NO_RESAMPLING,
    get_row_values,
    make_answers,
    make_continuations,
)


def test_rouge_is_recall_with_stems_in_order() -> None:
    pairs = [("Paris is the capital", "the capital is Paris"), ("running dogs", "It runs: a dog!"), ("yes", "")]
    assert get_row_values("rouge_l", make_answers(*pairs)) == [0.5, 1.0, 0.0]


def test_rouge_reads_any_script_and_leaves_out_rows_without_words() -> None:
    pairs = [("東京", "東京"), ("Tokyo", "Tokyo"), ("東京", "京都"), ("!", "!"), None]

    values = get_row_values("rouge_l", make_answers(*pairs))
    without_words = METRICS["rouge_l"](make_answers(("?!", "?!")), NO_RESAMPLING)

    assert values == [1.0, 1.0, 0.0, None, None]
    assert without_words.value is None
    assert without_words.absent_reason == "no expected answer has words"


def test_rouge_of_english_equals_the_published_package_exactly(shared_data: Path) -> None:
    lines = (shared_data / "tofu" / "forget10_perturbed.json").read_text().splitlines()[:150]
    rows = list(map(json.loads, lines))
    pairs = [(row["answer"], wrong) for row in rows for wrong in (*row["perturbed_answer"], row["paraphrased_answer"])]
    published = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)

    ours = [compute_rouge_l(*pair, prompt="What is it?", use_stemmer=True) for pair in pairs]

    assert len(pairs) > 300
    assert ours == [published.score(*pair)["rougeL"] for pair in pairs]


def test_continuation_rouge_is_the_f1_of_precision_and_recall() -> None:
    # the longest common subsequence is "red green": recall 2/4, precision 2/2
    values = get_row_values("continuation_rouge_l_100", make_continuations(("red blue green white", "red green")))

    assert values == [pytest.approx(2 * 0.5 * 1 / 1.5)]


def test_a_perfect_continuation_scores_1_and_an_unrelated_text_near_0() -> None:
    book = "It was the best of times, it was the worst of times, it was the age of wisdom"
    inference = make_continuations((book, book), (book, "Squirrels eat nuts happily"))

    rouge = get_row_values("continuation_rouge_l_100", inference)
    bleu = get_row_values("continuation_bleu_100", inference)

    assert rouge == [1.0, 0.0]
    assert bleu[0] == 1.0
    assert bleu[1] is not None
    assert bleu[1] < 0.05


def test_bleu_of_a_text_shorter_than_four_words_can_reach_1() -> None:
    inference = make_continuations(("the end", "the end"), prefix=300)
    assert METRICS["continuation_bleu_300"](inference, NO_RESAMPLING).value == 1.0


def test_short_rows_have_no_value_and_a_set_of_them_is_absent_with_the_reason() -> None:
    some_rows = make_continuations(None, ("a cat", "a cat"), prefix=200)
    no_rows = make_continuations(None, None, prefix=200)

    partial = METRICS["verbatim_memorization"](some_rows, NO_RESAMPLING)
    absent = METRICS["verbatim_memorization"](no_rows, NO_RESAMPLING)

    assert (partial.per_example, partial.count) == ((None, 1.0), 1)
    assert absent.value is None
    assert absent.absent_reason == "no row is plain text of more than 200 tokens"


def test_continuations_are_read_in_any_script_and_texts_without_words_have_no_value() -> None:
    book, other = "吾輩は猫である。名前はまだ無い。", "むかしむかし、おじいさんがいました。"
    inference = make_continuations((book, book), (book, other), ("...", "..."))

    rouge, bleu = (get_row_values(f"continuation_{metric}_100", inference) for metric in ("rouge_l", "bleu"))

    assert rouge[0] == bleu[0] == 1.0
    assert rouge[1] is not None
    assert rouge[1] < 0.5
    assert bleu[1] is not None
    assert bleu[1] < 0.2
    assert rouge[2] is None
