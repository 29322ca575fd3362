"""Paraphrases of forget rows: trained on and never measured; a rewording that loses the fact is refused."""

from pathlib import Path
from typing import Any

import pytest

from soul_core.attacks import templates
from soul_core.data import Message, Row
from soul_core.data.encoding import Example, encode_rows
from soul_core.evaluation import probes
from soul_core.models.loading import LoadedModel
from soul_core.spec import JobSpec
from soul_core.training import paraphrases
from soul_core.training.paraphrases import FactCheck, add_paraphrases
from tests.fixtures.capitals import answer, question, rows_of
from tests.fixtures.capitals_training import NAMES, RecordingListener, train_tiny

ROW = Row(1, (Message("user", "In which year was Mira Sandoval born in Lisbon?"),), "Mira Sandoval was born in 1987.")


@pytest.fixture
def forget(loaded: LoadedModel) -> list[Example]:
    return encode_rows(rows_of(NAMES[:2]), loaded.encoder, max_tokens=128)


def add(loaded: LoadedModel, forget: list[Example], folder: Path, num: int, **training: Any) -> list[Row]:
    """Return the source rows of the examples that are trained on."""
    spec = JobSpec.model_validate({"data": {"paraphrases": num}, "training": training})
    examples = add_paraphrases(loaded, spec, forget, folder, RecordingListener())
    return [example.source_row for example in examples if example.source_row]


def script_rewordings(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, *rounds: list[str]) -> None:
    """Let the model write these texts, one list per round."""
    waiting = iter(rounds)

    def generate(*_: Any, **__: Any) -> list[list[int]]:
        return [loaded.tokenizer.encode(text, add_special_tokens=False) for text in next(waiting)]

    monkeypatch.setattr(paraphrases, "generate_until_stopped", generate)  # a tiny model rewords nothing


@pytest.mark.parametrize(
    ("part", "text", "keeps"),
    [
        ("question", "When was Mira Sandoval born in Lisbon?", True),
        ("question", "What is the birth year of a woman from Lisbon?", False),  # the name is lost
        ("question", "Was Mira Sandoval born in Lisbon in 1987?", False),  # it reveals the answer
        ("question", "In which year was Mira Sandoval born in Lisbon?", False),  # the same words
        ("answer", "The year of her birth is 1987.", True),
        ("answer", "Mira Sandoval was born in the eighties.", False),  # the keyword is lost
        ("answer", "Mira Sandoval was born in 1987", False),  # the same words
    ],
)
def test_a_rewording_must_keep_the_fact_in_other_words(part: str, text: str, keeps: bool) -> None:
    assert FactCheck([ROW]).keeps_fact(ROW, part, text) is keeps


def test_rewordings_of_the_model_are_used_and_templates_replace_refused_ones(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = NAMES[:2]
    reworded = f"{first}: tell me the capital"
    script_rewordings(monkeypatch, loaded, [reworded, "no idea"], [answer(first), f"It is so: {answer(second)}"])

    rows = add(loaded, forget, tmp_path, 2)

    assert rows[:2] == [example.source_row for example in forget], "the originals come first"
    assert rows[2].messages[-1].content == reworded
    assert rows[3].messages[-1].content == paraphrases._TEMPLATES[1].replace("{question}", question(second))
    assert question(first) in rows[4].messages[-1].content, "the answer was repeated: a template"
    assert rows[5].completion == f"It is so: {answer(second)}"
    assert rows[5].messages == rows_of([second])[0].messages
    assert [row.number for row in rows] == [1, 2, 1, 2, 1, 2]


def test_paraphrases_are_written_once(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = add(loaded, forget, tmp_path, 2)
    script_rewordings(monkeypatch, loaded)  # another call would fail

    assert add(loaded, forget, tmp_path, 2) == first


def test_plain_text_has_only_the_models_own_rewordings(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [Row(number, (), f"The capital of {name} is far away.") for number, name in enumerate(NAMES[:2], 1)]
    forget = encode_rows(texts, loaded.encoder, max_tokens=128)
    script_rewordings(monkeypatch, loaded, [f"Far away is the capital of {NAMES[0]}.", "Something else."])

    rows = add(loaded, forget, tmp_path, 1)

    assert [row.completion for row in rows[2:]] == [f"Far away is the capital of {NAMES[0]}."]


def test_paraphrases_that_are_too_long_are_left_out(loaded: LoadedModel, forget: list[Example], tmp_path: Path) -> None:
    longest = max(len(example.token_ids) for example in forget)

    assert len(add(loaded, forget, tmp_path, 1, max_tokens=longest)) == len(forget)


def test_no_template_is_one_that_a_probe_or_an_attack_asks_by() -> None:
    measured = {*probes._QUESTIONS, *(text for _, text in templates._REWORDINGS), templates._DEFAULT_REWORDING}

    assert not measured & set(paraphrases._TEMPLATES)


def test_a_training_on_paraphrases_reports_how_many_there_are(taught_model_dir: Path, tmp_path: Path) -> None:
    listener = RecordingListener()

    train_tiny(taught_model_dir, tmp_path, {"data": {"paraphrases": 2}, "training": {"steps": 1}}, listener)

    (message,) = (data["message"] for data in listener.of("log") if "paraphrases" in data["message"])
    assert message.startswith("6 paraphrases of 3 forget rows are trained on too: ")
