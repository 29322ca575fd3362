"""Refusals and alternates: supervised on their own tokens, drawn by the seed, different from the answer, cut to fit."""

from pathlib import Path
from typing import Any

import pytest

from soul_core.data.encoding import Example, encode_rows
from soul_core.errors import BadData, RunCancelledError
from soul_core.events import EventKind, SilentListener, StopRequest
from soul_core.models.loading import LoadedModel
from soul_core.objectives import alternative_answers
from soul_core.objectives.alternative_answers import (
    make_alternate_examples,
    make_alternate_prompt,
    make_refusal_examples,
)
from soul_core.objectives.terms import ExampleContext
from soul_core.spec.terms import AltPo, Refusal
from tests.fixtures.capitals import COUNTRIES, answer, rows_of

ALL = list(COUNTRIES)
SPEC = AltPo(alternates="instructed", instruction="Otherwise?", temperature=1.0, max_new_tokens=12)


@pytest.fixture
def forget(loaded: LoadedModel) -> list[Example]:
    return encode_rows(rows_of(ALL[:4]), loaded.encoder, max_tokens=128)


def make_alternates(
    loaded: LoadedModel,
    forget: list[Example],
    folder: Path,
    *,
    spec: AltPo = SPEC,
    seed: int = 0,
    max_tokens: int = 128,
    listener: SilentListener | None = None,
) -> list[Example]:
    context = ExampleContext(loaded, seed, max_tokens)
    return make_alternate_examples(forget, spec, context, folder=folder, listener=listener or SilentListener())


def decode_answer(loaded: LoadedModel, example: Example) -> str:
    return str(loaded.tokenizer.decode(example.token_ids[example.num_prompt_tokens : -1])).strip()


def script_answers(monkeypatch: pytest.MonkeyPatch, loaded: LoadedModel, *rounds: list[str]) -> list[int]:
    """Let the model give these answers, round by round; return the number of prompts of each round, as they come."""
    num_prompts: list[int] = []

    def generate(_: Any, prompts: list[list[int]], **options: Any) -> list[list[int]]:
        num_prompts.append(len(prompts))
        return [loaded.tokenizer.encode(text, add_special_tokens=False) for text in rounds[len(num_prompts) - 1]]

    monkeypatch.setattr(alternative_answers, "generate", generate)  # the fault: a model of few words
    return num_prompts


def test_a_refusal_is_supervised_on_its_own_tokens(loaded: LoadedModel, forget: list[Example]) -> None:
    # Upstream keeps the mask of the old answer, so a longer refusal is cut and a shorter one is padded.
    text = "I cannot tell you anything at all about that, and I never will."

    examples = make_refusal_examples(forget, Refusal(refusals=(text,)), ExampleContext(loaded, 0, 128))

    for old, new in zip(forget, examples, strict=True):
        assert new.token_ids[: new.num_prompt_tokens] == old.token_ids[: old.num_prompt_tokens]
        assert decode_answer(loaded, new) == text
        assert new.token_ids[-1] == old.token_ids[-1], "the end of the answer is learned"


def test_refusals_are_drawn_by_the_seed(loaded: LoadedModel) -> None:
    forget = encode_rows(rows_of(ALL), loaded.encoder, max_tokens=128)
    spec = Refusal(refusals=("No.", "Never.", "Not at all."))

    draws = [make_refusal_examples(forget, spec, ExampleContext(loaded, seed, 128)) for seed in (0, 0, 1)]

    assert draws[0] == draws[1]
    assert draws[0] != draws[2]


def test_the_model_is_instructed_in_a_further_turn_of_the_same_conversation(
    loaded: LoadedModel, forget: list[Example]
) -> None:
    prompt = loaded.tokenizer.decode(make_alternate_prompt(forget[0], SPEC, loaded))

    assert prompt == (
        f"<|im_start|>user\nWhat is the capital of {ALL[0]}?<|im_end|>\n"
        f"<|im_start|>assistant\n{answer(ALL[0])}<|im_end|>\n"
        "<|im_start|>user\nOtherwise?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_without_a_chat_template_the_instruction_follows_in_the_text(loaded: LoadedModel) -> None:
    loaded.tokenizer.chat_template = None
    (example,) = encode_rows(rows_of(ALL[:1]), loaded.encoder, max_tokens=128)

    prompt = str(loaded.tokenizer.decode(make_alternate_prompt(example, SPEC, loaded)))

    assert prompt.endswith(f"What is the capital of {ALL[0]}? {answer(ALL[0])}\n\nOtherwise?\n\n")


def test_an_alternate_answers_the_same_prompt_and_is_learned_to_its_end(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path
) -> None:
    for old, new in zip(forget, make_alternates(loaded, forget, tmp_path), strict=True):
        assert new.token_ids[: new.num_prompt_tokens] == old.token_ids[: old.num_prompt_tokens]
        assert new.token_ids[-1] == old.token_ids[-1]
        assert decode_answer(loaded, new) not in {"", decode_answer(loaded, old)}


def test_a_model_that_knows_one_answer_gives_another_under_suppressed_tokens(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path
) -> None:
    constrained = SPEC.model_copy(update={"alternates": "constrained", "temperature": 0.01, "tries": 1})

    examples = make_alternates(loaded, forget, tmp_path, spec=constrained)

    for old, new in zip(forget, examples, strict=True):
        assert decode_answer(loaded, new).startswith("The capital is")
        assert decode_answer(loaded, new) != decode_answer(loaded, old)


def test_alternates_are_drawn_by_the_seed(loaded: LoadedModel, forget: list[Example], tmp_path: Path) -> None:
    seeds = {"first": 0, "second": 0, "third": 1}

    draws = {name: make_alternates(loaded, forget, tmp_path / name, seed=seed) for name, seed in seeds.items()}

    assert draws["first"] == draws["second"]
    assert draws["first"] != draws["third"]


def test_an_alternate_that_repeats_the_answer_is_sampled_again(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repetition = f"Well, {COUNTRIES[ALL[1]].upper()} it is."
    num_prompts = script_answers(
        monkeypatch, loaded, ["It is A.", repetition, "", "It is D."], ["It is B.", "It is C."]
    )

    examples = make_alternates(loaded, forget, tmp_path)

    assert num_prompts == [4, 2]
    assert [decode_answer(loaded, example) for example in examples] == ["It is A.", "It is B.", "It is C.", "It is D."]


def test_rows_without_an_alternate_are_named_and_nothing_is_stored(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_answers(monkeypatch, loaded, ["It is A.", answer(ALL[1]), "It is C.", ""], [answer(ALL[1]), ""])

    with pytest.raises(BadData, match=r"no other answer for 2 of 4 rows; use forget\.kind 'dpo'") as caught:
        make_alternates(loaded, forget, tmp_path, spec=SPEC.model_copy(update={"tries": 2}))

    assert caught.value.details == ("row 2: no alternate in 2 tries", "row 4: no alternate in 2 tries")
    assert not list(tmp_path.iterdir())


def test_an_alternate_is_its_first_paragraph_cut_to_the_longest_example(
    loaded: LoadedModel, forget: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_answers(monkeypatch, loaded, ["It is A.\n\nNow, what else?", "It is B. " * 99, "It is C.", "It is D."])
    max_tokens = len(forget[1].token_ids) + 20

    examples = make_alternates(loaded, forget, tmp_path, max_tokens=max_tokens)

    assert decode_answer(loaded, examples[0]) == "It is A."
    assert len(forget[1].token_ids) < len(examples[1].token_ids) <= max_tokens


def test_a_cancel_ends_the_sampling_of_alternates(loaded: LoadedModel, forget: list[Example], tmp_path: Path) -> None:
    class Canceller(SilentListener):
        def stop_request(self) -> StopRequest:
            return StopRequest.CANCEL

    with pytest.raises(RunCancelledError):
        make_alternates(loaded, forget, tmp_path, listener=Canceller())


def test_progress_counts_the_rows_that_are_answered(loaded: LoadedModel, forget: list[Example], tmp_path: Path) -> None:
    class Recorder(SilentListener):
        def __init__(self) -> None:
            self.done: list[int] = []

        def emit(self, kind: EventKind, **data: Any) -> None:
            if kind == "progress":
                assert (data["unit"], data["total"]) == ("alternate answer", 4)
                self.done.append(data["done"])

    recorder = Recorder()

    make_alternates(loaded, forget, tmp_path, listener=recorder)

    assert recorder.done[-1] == 4
