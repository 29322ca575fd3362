"""The retain set that a tiny model makes: its form, its screening, its repetition, and what is reported of it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data import Row
from soul_core.errors import BadData, RunCancelledError
from soul_core.events import SilentListener, StopRequest
from soul_core.generated_retain import GeneratedRetain, load_general_prompts, make_retain_set
from soul_core.models import generation
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec import JobSpec
from soul_core.spec.generated_retain import NUM_GENERAL_PROMPTS
from soul_core.texts import extract_word_set
from tests.fixtures.capitals import COUNTRIES, rows_of

FORGET = {"forget": tuple(rows_of(["France", "Italy"]))}
SIZES = {"neighbors": 6, "general": 3, "free": 3, "max_new_tokens": 16, "temperature": 0.7}


class Recorder(SilentListener):
    def __init__(self, request: StopRequest = StopRequest.NONE) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._request = request

    def emit(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def stop_request(self) -> StopRequest:
        return self._request


def make_spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate({"data": {"auto_retain": {**SIZES, **changes}}, "seed": 3})


def make(
    loaded: LoadedModel, folder: Path, rows: Any = FORGET, spec: JobSpec | None = None, listener: Any = None
) -> GeneratedRetain:
    return make_retain_set(loaded, rows, spec or make_spec(), folder=folder, listener=listener or SilentListener())


@pytest.fixture(name="loaded", scope="module")
def load_model_that_knows_the_questions(taught_model_dir: Path) -> LoadedModel:
    """The model that knows ten capitals, taught to ask for them too: 1 s of training."""
    torch.set_num_threads(1)
    loaded = load_model(taught_model_dir, device="cpu")
    rows = [loaded.encoder.encode(row).token_ids for row in rows_of(list(COUNTRIES))]
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=5e-3)
    for _ in range(30):
        for token_ids in rows:
            loss = loaded.model(torch.tensor([token_ids]), labels=torch.tensor([token_ids])).loss
            torch.autograd.backward(loss / len(rows))
        optimizer.step()
        optimizer.zero_grad()
    return loaded


@pytest.fixture(name="made")
def make_once(loaded: LoadedModel, tmp_path: Path) -> GeneratedRetain:
    return make(loaded, tmp_path)


def test_neighbors_have_the_form_of_the_forget_prompts_and_other_subjects(made: GeneratedRetain) -> None:
    num_neighbors = made.facts.num_rows["neighbors"]
    prompts = [row.messages[-1].content for row in made.rows[:num_neighbors]]
    assert num_neighbors >= 2
    assert all(prompt.startswith("What is the capital of") and prompt.endswith("?") for prompt in prompts)
    words = frozenset().union(*(extract_word_set(f"{row.messages[-1].content} {row.completion}") for row in made.rows))
    assert not words & {"france", "paris", "itali", "rome"}


def test_answers_are_the_greedy_answers_of_the_model(made: GeneratedRetain, loaded: LoadedModel) -> None:
    row = made.rows[0]
    [token_ids] = generation.generate(
        loaded.model,
        [loaded.encoder.encode_prompt(row)],
        end_ids=generation.get_end_ids(loaded),
        max_new_tokens=16,
        context_tokens=loaded.facts.context_tokens,
    )
    assert loaded.encoder.decode_answer(token_ids).answer.startswith(row.completion)


def test_facts_count_the_rows_and_reasons(made: GeneratedRetain) -> None:
    facts = made.facts
    assert sum(facts.num_rows.values()) == len(made.rows) == made.rows[-1].number
    assert facts.requested_rows == {"neighbors": 6, "general": 3, "free": 3}
    assert facts.refused["forget_words"] > 0  # the model knows ten capitals, two of them to forget
    assert (facts.seed, facts.temperature) == (3, 0.7)


def test_a_resumed_run_reads_the_rows_instead_of_making_them(
    loaded: LoadedModel, tmp_path: Path, made: GeneratedRetain
) -> None:
    cancelled = Recorder(StopRequest.CANCEL)
    assert make(loaded, tmp_path, listener=cancelled) == made  # nothing is generated, or it would stop


def test_another_spec_makes_its_own_rows(loaded: LoadedModel, tmp_path: Path, made: GeneratedRetain) -> None:
    assert make(loaded, tmp_path, spec=make_spec(general=1)).facts.sha256 != made.facts.sha256


def test_the_batch_size_changes_nothing(
    loaded: LoadedModel, tmp_path: Path, made: GeneratedRetain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation, "_MAX_ROWS", 3)
    assert make(loaded, tmp_path / "other").rows == made.rows


def test_a_cancel_ends_the_generation(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(RunCancelledError):
        make(loaded, tmp_path, listener=Recorder(StopRequest.CANCEL))


def test_events_hold_counts_and_no_row(loaded: LoadedModel, tmp_path: Path) -> None:
    recorder = Recorder()
    rows = make(loaded, tmp_path, listener=recorder).rows
    assert [kind for kind, _ in recorder.events if kind == "progress"]
    assert not any(row.completion in str(recorder.events) for row in rows)


def test_plain_texts_get_texts_that_begin_like_them(loaded: LoadedModel, tmp_path: Path) -> None:
    texts = {"forget": (Row(1, (), "The capital is Paris, and The capital of France is old."),)}
    rows = make(loaded, tmp_path, rows=texts, spec=make_spec(general=0, temperature=1.0)).rows
    assert rows
    assert all(row.messages == () for row in rows)
    assert rows[0].completion.startswith("The capital is")


def test_a_model_without_a_template_writes_texts_from_nothing(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded.tokenizer, "chat_template", None)
    made = make(loaded, tmp_path, spec=make_spec(general=0, temperature=1.5, neighbors=12, free=12))
    assert any(row.messages == () for row in made.rows)


def test_without_a_usable_row_the_error_names_the_reasons(loaded: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(BadData, match="wrote no row that can be used"):
        make(loaded, tmp_path, spec=make_spec(neighbors=0, general=0, free=0))


def test_the_shipped_prompts_are_as_many_as_the_spec_allows() -> None:
    prompts = load_general_prompts()
    assert len(set(prompts)) == len(prompts) == NUM_GENERAL_PROMPTS
