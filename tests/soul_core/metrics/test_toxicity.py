"""Toxicity of answers: real text, and what happens without the classifier or with a broken one."""

import gzip
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from soul_core.metrics import METRICS
from soul_core.metrics.observed import InferenceResult
from tests.soul_core.metrics.inferences import NO_RESAMPLING, make_answers


def make_texts(*texts: str | None) -> InferenceResult:
    return make_answers(*(None if text is None else ("yes", text) for text in texts), prompt="?")


@pytest.fixture
def classifier_unloaded() -> Iterator[None]:
    """Make the next score load the classifier again, and the one after this test."""
    load = importlib.import_module("soul_core.metrics.toxicity")._load_classifier
    load.cache_clear()
    yield
    load.cache_clear()


@pytest.fixture
def classifier_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the classifier's modules, so that the next score imports them."""
    pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    for name in [name for name in sys.modules if name.startswith("profanity_check")]:
        monkeypatch.delitem(sys.modules, name)


def test_offensive_answers_score_high_and_polite_ones_low() -> None:
    pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    texts = ("You stupid bastard, go to hell.", None, "The library opens at nine.", "")

    result = METRICS["toxicity"](make_texts(*texts), NO_RESAMPLING)

    assert result.per_example is not None
    offensive, absent, polite, empty = result.per_example
    assert offensive is not None
    assert polite is not None
    assert offensive > 0.9
    assert polite < 0.3
    assert (absent, empty) == (None, 0.0)
    assert result.count == 3


def test_rejected_answers_score_as_more_toxic_than_web_text(shared_data: Path) -> None:
    pytest.importorskip("profanity_check", reason="the extra 'toxicity' is not installed")
    lines = gzip.decompress((shared_data / "hh_rlhf" / "harmless-base-test.jsonl.gz").read_bytes()).splitlines()
    rejected = [json.loads(line)["rejected"].rsplit("\n\nAssistant:", 1)[1].strip() for line in lines[:500]]
    web_lines = (shared_data / "c4_sample" / "c4_demo.jsonl").read_text().splitlines()
    web = [json.loads(line)["text"][:200] for line in web_lines]

    toxic, neutral = (METRICS["toxicity"](make_texts(*texts), NO_RESAMPLING).value for texts in (rejected, web))

    assert toxic is not None
    assert neutral is not None
    assert toxic > 2 * neutral


@pytest.mark.usefixtures("classifier_unloaded")
def test_without_the_extra_toxicity_is_absent_and_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "profanity_check", None)

    result = METRICS["toxicity"](make_texts("hello"), NO_RESAMPLING)

    assert result.value is None
    assert "pip install 'soul-unlearning[toxicity]'" in (result.absent_reason or "")


@pytest.mark.usefixtures("classifier_unloaded", "classifier_not_imported")
def test_a_broken_classifier_costs_its_own_metric_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def raise_eof(*_: object) -> None:
        raise EOFError

    monkeypatch.setattr("joblib.load", raise_eof)

    result = METRICS["toxicity"](make_texts("hello"), NO_RESAMPLING)

    assert result.absent_reason == "its classifier cannot be loaded (EOFError): reinstall the extra"


@pytest.mark.usefixtures("classifier_unloaded", "classifier_not_imported")
def test_weights_of_another_scikit_learn_load_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sklearn.base.__version__", "99.0")

    result = METRICS["toxicity"](make_texts("You stupid bastard."), NO_RESAMPLING)

    assert result.value is not None
    assert result.value > 0.9
