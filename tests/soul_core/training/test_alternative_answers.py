"""Alternates: asked for in the conversation's own form, drawn by the seed, other than the answer, cut to fit."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.encoding import Example, encode_rows
from soul_core.errors import BadData, RunCancelledError
from soul_core.events import EventKind, SilentListener, StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec.terms import AltPo
from soul_core.training import alternative_answers
from soul_core.training.alternative_answers import make_alternate_examples, make_alternate_prompt
from tests.fixtures.tiny_model import COUNTRIES, answer, rows_of

ALL = list(COUNTRIES)
TERM = AltPo(alternates="instructed", instruction="Otherwise?", temperature=1.0, max_new_tokens=12)


@pytest.fixture
def loaded(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


@pytest.fixture
def forget(loaded: LoadedModel) -> list[Example]:
    return encode_rows(rows_of(ALL[:4]), loaded.encoder, max_tokens=128)


def make(
    loaded: LoadedModel, forget: list[Example], folder: Path, *, term: AltPo = TERM, **options: Any
) -> list[Example]:
    options = {"seed": 0, "max_tokens": 128, "listener": SilentListener(), **options}
    return make_alternate_examples(forget, term, loaded, folder=folder, **options)


def text(loaded: LoadedModel, example: Example) -> str:
    return str(loaded.tokenizer.decode(example.token_ids[example.num_prompt_tokens : -1])).strip()


def says(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, *rounds: list[str]) -> list[int]:
    """Let the model answer so, round by round; return how many prompts each round had, as they come."""
    asked: list[int] = []

    def generate(_: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
        asked.append(len(prompts))
        return [loaded.tokenizer.encode(one, add_special_tokens=False) for one in rounds[len(asked) - 1]]

    monkeypatch.setattr(alternative_answers, "generate", generate)  # the fault: a model of few words
    return asked


def test_the_model_is_asked_in_a_further_turn_of_the_same_conversation(
    loaded: LoadedModel, forget: list[Example]
) -> None:
    asked = loaded.tokenizer.decode(make_alternate_prompt(forget[0], TERM, loaded))

    assert asked == (
        f"<|im_start|>user\nWhat is the capital of {ALL[0]}?<|im_end|>\n"
        f"<|im_start|>assistant\n{answer(ALL[0])}<|im_end|>\n"
        "<|im_start|>user\nOtherwise?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_chat_template_the_instruction_follows_in_the_text(loaded: LoadedModel) -> None:
    loaded.tokenizer.chat_template = None
    (example,) = encode_rows(rows_of(ALL[:1]), loaded.encoder, max_tokens=128)

    asked = str(loaded.tokenizer.decode(make_alternate_prompt(example, TERM, loaded)))

    assert asked.endswith(f"What is the capital of {ALL[0]}? {answer(ALL[0])}\n\nOtherwise?\n\n")


def test_an_alternate_answers_the_same_prompt_and_is_learned_to_its_end(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path
) -> None:
    for old, new in zip(forget, make(loaded, forget, tmp_path), strict=True):
        assert new.token_ids[: new.num_prompt_tokens] == old.token_ids[: old.num_prompt_tokens]
        assert new.token_ids[-1] == old.token_ids[-1]
        assert text(loaded, new) not in {"", text(loaded, old)}


def test_a_model_that_knows_one_answer_only_gives_another_while_that_is_held_back(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path
) -> None:
    constrained = TERM.model_copy(update={"alternates": "constrained", "temperature": 0.01, "tries": 1})

    made = make(loaded, forget, tmp_path, term=constrained)

    for old, new in zip(forget, made, strict=True):
        assert text(loaded, new).startswith("The capital is")
        assert text(loaded, new) != text(loaded, old)


def test_alternates_are_drawn_by_the_seed(loaded: LoadedModel, forget: list[Example], tmp_path: Path) -> None:
    drawn = [make(loaded, forget, tmp_path / str(place), seed=seed) for place, seed in enumerate((0, 0, 1))]

    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_what_tells_the_answer_is_asked_for_again(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repeated = f"Well, {COUNTRIES[ALL[1]].upper()} it is."
    asked = says(monkeypatch, loaded, ["It is A.", repeated, "", "It is D."], ["It is B.", "It is C."])

    made = make(loaded, forget, tmp_path)

    assert asked == [4, 2]
    assert [text(loaded, one) for one in made] == ["It is A.", "It is B.", "It is C.", "It is D."]


def test_rows_the_model_knows_no_alternate_of_are_named(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, loaded, ["It is A.", answer(ALL[1]), "It is C.", ""], [answer(ALL[1]), ""])

    with pytest.raises(BadData, match=r"no other answer of 2 of 4 rows; use forget\.kind 'dpo'") as caught:
        make(loaded, forget, tmp_path, term=TERM.model_copy(update={"tries": 2}))

    assert [detail.split(":")[0] for detail in caught.value.details] == ["row 2", "row 4"]
    assert not list(tmp_path.iterdir())


def test_an_alternate_is_its_first_paragraph_cut_to_what_training_may_see(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(monkeypatch, loaded, ["It is A.\n\nNow, what else?", "It is B. " * 99, "It is C.", "It is D."])
    longest = len(forget[1].token_ids) + 20

    made = make(loaded, forget, tmp_path, max_tokens=longest)

    assert text(loaded, made[0]) == "It is A."
    assert len(forget[1].token_ids) < len(made[1].token_ids) <= longest


def test_who_cancels_need_not_wait_for_the_alternates(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path
) -> None:
    class Canceller(SilentListener):
        def stop_request(self) -> StopRequest:
            return StopRequest.CANCEL

    with pytest.raises(RunCancelledError):
        make(loaded, forget, tmp_path, listener=Canceller())


def test_progress_is_told(loaded: LoadedModel, forget: list[Example], tmp_path: Path) -> None:
    class Ear(SilentListener):
        def __init__(self) -> None:
            self.done: list[int] = []

        def emit(self, kind: EventKind, **data: Any) -> None:
            if kind == "progress":
                assert (data["unit"], data["total"]) == ("alternate answer", 4)
                self.done.append(data["done"])

    ear = Ear()

    make(loaded, forget, tmp_path, listener=ear)

    assert ear.done[-1] == 4
