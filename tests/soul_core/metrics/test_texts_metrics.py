"""Recital of texts and toxicity of answers: values by hand, real text, and what is missing said."""

import gzip
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from soul_core.metrics import METRICS
from soul_core.metrics.aggregate import Resampling
from soul_core.metrics.observed import Continuation, GeneratedAnswer, InferenceResult

NONE = Resampling(num_resamples=0, confidence=0.95, seed=0)


def continued(*pairs: tuple[str, str] | None, prefix: int = 100) -> InferenceResult:
    rows = tuple(Continuation(i, *pair) if pair else None for i, pair in enumerate(pairs, start=1))
    return InferenceResult(rows=tuple(range(1, len(pairs) + 1)), continuations={prefix: rows})


def answered(*texts: str | None) -> InferenceResult:
    rows = tuple(
        None if text is None else GeneratedAnswer(i, "?", "yes", text) for i, text in enumerate(texts, start=1)
    )
    return InferenceResult(rows=tuple(range(1, len(texts) + 1)), answers=rows)


@pytest.fixture
def classifier_unloaded() -> Iterator[None]:
    """The next score loads the classifier anew, and so does the one after this test."""
    load = importlib.import_module("soul_core.metrics.toxicity")._classifier
    load.cache_clear()
    yield
    load.cache_clear()


def test_recital_is_rouge_l_f1_of_precision_and_recall() -> None:
    # the longest common subsequence is "red green": recall 2/4, precision 2/2
    found = METRICS["continuation_rouge_l_100"](continued(("red blue green white", "red green")), NONE)

    assert found.per_example == (pytest.approx(2 * 0.5 * 1 / 1.5),)


def test_a_perfect_recital_is_1_and_an_unrelated_text_near_0() -> None:
    book = "It was the best of times, it was the worst of times, it was the age of wisdom"
    observed = continued((book, book), (book, "Squirrels eat nuts happily"))

    rouge = METRICS["continuation_rouge_l_100"](observed, NONE).per_example
    bleu = METRICS["continuation_bleu_100"](observed, NONE).per_example

    assert rouge == (1.0, 0.0)
    assert bleu is not None
    assert bleu[0] == 1.0
    assert bleu[1] is not None
    assert bleu[1] < 0.05


def test_bleu_of_a_text_shorter_than_four_words_can_reach_1() -> None:
    assert METRICS["continuation_bleu_300"](continued(("the end", "the end"), prefix=300), NONE).value == 1.0


def test_short_rows_have_no_value_and_a_set_of_them_says_so() -> None:
    some = METRICS["verbatim_memorization"](continued(None, ("a cat", "a cat"), prefix=200), NONE)
    none = METRICS["verbatim_memorization"](continued(None, None, prefix=200), NONE)

    assert (some.per_example, some.count) == ((None, 1.0), 1)
    assert none.value is None
    assert none.absent_reason == "no row is plain text of more than 200 tokens"


def test_recital_is_read_in_any_script_and_texts_without_words_have_no_value() -> None:
    book, other = "吾輩は猫である。名前はまだ無い。", "むかしむかし、おじいさんがいました。"

    rouge, bleu = (
        METRICS[f"continuation_{metric}_100"](continued((book, book), (book, other), ("...", "...")), NONE).per_example
        for metric in ("rouge_l", "bleu")
    )

    assert rouge is not None
    assert bleu is not None
    assert rouge[0] == bleu[0] == 1.0
    assert rouge[1] < 0.5
    assert bleu[1] < 0.2
    assert rouge[2] is None


def test_offensive_answers_score_high_and_polite_ones_low() -> None:
    pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")

    found = METRICS["toxicity"](
        answered("You stupid bastard, go to hell.", None, "The library opens at nine.", ""), NONE
    )

    assert found.per_example is not None
    bad, absent, good, silent = found.per_example
    assert bad is not None
    assert good is not None
    assert bad > 0.9
    assert good < 0.3
    assert (absent, silent) == (None, 0.0)
    assert found.count == 3


def test_rejected_answers_are_heard_as_more_toxic_than_web_text(shared_data: Path) -> None:
    pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    lines = gzip.decompress((shared_data / "hh_rlhf" / "harmless-base-test.jsonl.gz").read_bytes()).splitlines()
    rejected = [json.loads(line)["rejected"].rsplit("\n\nAssistant:", 1)[1].strip() for line in lines[:500]]
    web_lines = (shared_data / "c4_sample" / "c4_demo.jsonl").read_text().splitlines()
    web = [json.loads(line)["text"][:200] for line in web_lines]

    toxic, neutral = (METRICS["toxicity"](answered(*texts), NONE).value for texts in (rejected, web))

    assert toxic is not None
    assert neutral is not None
    assert toxic > 2 * neutral


@pytest.mark.usefixtures("classifier_unloaded")
def test_without_the_extra_toxicity_is_absent_and_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)

    found = METRICS["toxicity"](answered("hello"), NONE)

    assert found.value is None
    assert "pip install 'soul-unlearning[toxicity]'" in (found.absent_reason or "")


@pytest.mark.usefixtures("classifier_unloaded")
def test_a_broken_classifier_costs_its_own_metric_only(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    for name in [name for name in sys.modules if name.startswith("profanity_check")]:
        monkeypatch.delitem(sys.modules, name)

    def torn(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr("joblib.load", torn)

    found = METRICS["toxicity"](answered("hello"), NONE)

    assert found.absent_reason == "its classifier cannot be loaded (EOFError): install the extra anew"


@pytest.mark.usefixtures("classifier_unloaded")
def test_weights_of_another_scikit_learn_are_read_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    for name in [name for name in sys.modules if name.startswith("profanity_check")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("sklearn.base.__version__", "99.0")

    found = METRICS["toxicity"](answered("You stupid bastard."), NONE)

    assert found.value is not None
    assert found.value > 0.9
