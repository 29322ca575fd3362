"""What `measure` finds on a model that knows ten capitals, against single rows scored plainly."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data import Message, Row
from soul_core.data.encoding import encode_rows
from soul_core.errors import OutOfMemory, RunCancelledError, RunInterruptedError
from soul_core.evaluation.evaluate import Measured, measure
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows, choose_sample_rows, make_answer_samples
from soul_core.events import JsonLinesListener, Listener, SilentListener, StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec import Evaluation
from tests.fixtures.capitals import COUNTRIES, answer, question, rows_of

EVALUATION = Evaluation(max_new_tokens=24, bootstrap=100, num_answer_samples=4)


@pytest.fixture(scope="module")
def loaded(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


def evaluation_set(loaded: LoadedModel, name: str, rows: list[Row]) -> EvaluationSet:
    return choose_rows(name, rows, encode_rows(rows, loaded.encoder, max_tokens=128), max_rows=400, seed=0)


@pytest.fixture(scope="module")
def sets(loaded: LoadedModel) -> list[EvaluationSet]:
    countries = list(COUNTRIES)
    wrong = [Row(8, (Message("user", question("Peru")),), "No, it is Bogota.")]
    text = [Row(i, (), "The capital is a city in " + country) for i, country in enumerate(countries, start=1)]
    return [
        evaluation_set(loaded, "forget", rows_of(countries[:4])),
        evaluation_set(loaded, "retain", rows_of(countries[4:]) + wrong),
        evaluation_set(loaded, "general", text),
    ]


def run(
    loaded: LoadedModel,
    sets: list[EvaluationSet],
    kept: Path,
    *,
    evaluation: Evaluation = EVALUATION,
    listener: Listener | None = None,
    tokens: int = 64,
) -> Measured:
    return measure(
        loaded,
        sets,
        evaluation,
        seed=0,
        micro_batch_tokens=tokens,
        phase="baseline",
        listener=listener or SilentListener(),
        results_dir=kept,
    )


class Recorder(SilentListener):
    """Remembers events; wishes once `path` exists (None: at once)."""

    def __init__(self, wish: StopRequest = StopRequest.NONE, path: Path | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.path, self.wanted = path, wish

    def emit(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def stop_request(self) -> StopRequest:
        return self.wanted if self.path is None or self.path.exists() else StopRequest.NONE


def test_a_model_that_knows_scores_high_and_its_answers_are_kept(
    loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    measured = run(loaded, sets, tmp_path)
    forget = measured.sets["forget"]
    assert forget.answers == {i: answer(c) for i, c in enumerate(list(COUNTRIES)[:4], start=1)}
    assert all(forget.metrics[name].value == pytest.approx(1, abs=0.05) for name in EVALUATION.metrics[:4])
    retain = measured.sets["retain"].metrics
    assert retain["probability"].per_example is not None
    assert retain["extraction_strength"].per_example is not None
    assert retain["probability"].per_example[-1] < 0.05  # type: ignore[operator]
    assert retain["extraction_strength"].per_example[-1] < 0.6  # type: ignore[operator]


@torch.no_grad()
def test_packed_scores_equal_one_row_at_a_time(loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path) -> None:
    values = run(loaded, sets, tmp_path).sets["retain"].metrics["probability"].per_example
    assert values is not None
    for value, example in zip(values, sets[1].examples, strict=True):
        logits = loaded.model(torch.tensor([example.token_ids]), use_cache=False).logits[0].log_softmax(-1)
        places = range(example.num_prompt_tokens, len(example.token_ids))
        nll = -sum(float(logits[i - 1, example.token_ids[i]]) for i in places) / len(places)
        assert value == pytest.approx(math.exp(-nll), abs=1e-5)


def test_batch_size_changes_nothing(loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path) -> None:
    small = run(loaded, sets, tmp_path / "a", tokens=16).sets["retain"].metrics["probability"]
    large = run(loaded, sets, tmp_path / "b", tokens=4096).sets["retain"].metrics["probability"]
    assert small.value == pytest.approx(large.value, abs=1e-6)


def test_a_metric_without_its_needs_is_absent_and_says_why(
    loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    measured = run(loaded, sets, tmp_path / "a")
    assert "this set has prompts" in (measured.sets["forget"].metrics["perplexity"].absent_reason or "")
    general = measured.sets["general"].metrics
    assert general["perplexity"].value is not None
    assert "with a prompt" in (general["rouge_l"].absent_reason or "")
    without = run(loaded, sets[:2], tmp_path / "b").measurements()
    assert without.sets["general"]["perplexity"].absent_reason == "no general set was given"


def test_a_finished_set_is_read_back_and_not_measured_again(
    loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    whole = run(loaded, sets, tmp_path / "whole")
    stopping = Recorder(StopRequest.INTERRUPT, tmp_path / "parts" / "forget.json")
    with pytest.raises(RunInterruptedError):
        run(loaded, sets, tmp_path / "parts", listener=stopping)
    done = {path.stem for path in (tmp_path / "parts").glob("*.json")}
    assert done == {"forget"}
    resumed = Recorder()
    assert run(loaded, sets, tmp_path / "parts", listener=resumed) == whole
    last = resumed.events[-1][1]
    assert last["done"] == last["total"] == 7 + 7 + 10


def test_a_cancel_is_heard_between_batches(loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path) -> None:
    with pytest.raises(RunCancelledError):
        run(loaded, sets, tmp_path, listener=Recorder(StopRequest.CANCEL))


def test_progress_counts_rows_to_the_last_and_names_no_row(
    loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(loaded, sets, tmp_path, listener=JsonLinesListener())
    lines = capsys.readouterr().out
    assert '"done":' in lines
    assert "eta_seconds" in lines
    assert not any(word in lines for word in ("capital", "Paris", "France"))


def test_only_the_shown_questions_are_answered_where_no_metric_needs_answers(
    loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    evaluation = EVALUATION.model_copy(update={"metrics": ("probability",), "num_answer_samples": 3})
    measured = run(loaded, sets, tmp_path, evaluation=evaluation)
    assert {name: len(one.answers) for name, one in measured.sets.items()} == {"forget": 2, "retain": 1, "general": 0}
    beside = make_answer_samples(sets, {"base": measured.answers(), "unlearned": measured.answers()}, max_samples=3)
    assert [(one.set, one.row) for one in beside] == [("forget", 1), ("forget", 2), ("retain", 1)]
    assert beside[0].prompt == question("France")
    assert beside[0].answers["base"] == answer("France")


def test_a_row_that_one_model_was_not_asked_is_shown_without_its_answer(sets: list[EvaluationSet]) -> None:
    answers = {"base": {"forget": {1: "a", 2: "b"}, "retain": {}}, "other": {"forget": {2: "c"}}}

    beside = make_answer_samples(sets[:1], answers, max_samples=2)

    assert [one.answers for one in beside] == [{"base": "a"}, {"base": "b", "other": "c"}]


def test_rows_are_chosen_by_the_seed_in_the_sets_order(loaded: LoadedModel) -> None:
    rows = rows_of(list(COUNTRIES))
    examples = encode_rows(rows, loaded.encoder, max_tokens=128)
    chosen = [[row.number for row in choose_rows("forget", rows, examples, max_rows=4, seed=s).rows] for s in (0, 0, 1)]
    assert chosen[0] == chosen[1] == sorted(chosen[0])
    assert chosen[0] != chosen[2]
    assert len(choose_rows("forget", rows, examples, max_rows=99, seed=0).rows) == len(rows)


def test_shown_questions_never_exceed_what_there_is(loaded: LoadedModel, sets: list[EvaluationSet]) -> None:
    shown = choose_sample_rows(sets, 1000)
    assert {name: len(rows) for name, rows in shown.items()} == {"forget": 4, "retain": 7, "general": 0}


def test_lack_of_memory_halves_the_batch_and_one_row_too_many_says_so(
    loaded: LoadedModel, sets: list[EvaluationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = run(loaded, sets, tmp_path / "a").sets["forget"].metrics
    real, room = loaded.model.forward, 60

    def tight(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > room:
            raise torch.OutOfMemoryError("no more")
        return real(*args, **kwargs)

    monkeypatch.setattr(loaded.model, "forward", tight)
    tight_values = run(loaded, sets, tmp_path / "b", tokens=4096).sets["forget"].metrics
    assert tight_values["probability"].value == pytest.approx(wanted["probability"].value, abs=1e-6)
    room = 5
    with pytest.raises(OutOfMemory, match="one row of"):
        run(loaded, sets, tmp_path / "c")
