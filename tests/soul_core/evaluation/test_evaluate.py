"""`measure` on a model that knows ten capitals, against single rows scored by plain code."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data import Message, Row
from soul_core.data.encoding import encode_rows
from soul_core.errors import OutOfMemory, RunCancelledError, RunInterruptedError
from soul_core.evaluation.evaluate import measure
from soul_core.evaluation.model_evaluation import ModelEvaluation
from soul_core.evaluation.row_selection import EvaluationSet, choose_rows, choose_sample_rows, make_answer_samples
from soul_core.events import JsonLinesListener, Listener, SilentListener, StopRequest
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec import Evaluation
from tests.fixtures.capitals import COUNTRIES, answer, question, rows_of

EVALUATION = Evaluation(max_new_tokens=24, bootstrap=100, num_answer_samples=4)


@pytest.fixture(scope="module")
def loaded_model(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


def make_set(loaded_model: LoadedModel, name: str, rows: list[Row]) -> EvaluationSet:
    return choose_rows(name, rows, encode_rows(rows, loaded_model.encoder, max_tokens=128), max_rows=400, seed=0)


@pytest.fixture(scope="module")
def sets(loaded_model: LoadedModel) -> list[EvaluationSet]:
    countries = list(COUNTRIES)
    wrong = [Row(8, (Message("user", question("Peru")),), "No, it is Bogota.")]
    text = [Row(i, (), "The capital is a city in " + country) for i, country in enumerate(countries, start=1)]
    return [
        make_set(loaded_model, "forget", rows_of(countries[:4])),
        make_set(loaded_model, "retain", rows_of(countries[4:]) + wrong),
        make_set(loaded_model, "general", text),
    ]


def run(
    loaded_model: LoadedModel,
    sets: list[EvaluationSet],
    results_dir: Path,
    *,
    evaluation: Evaluation = EVALUATION,
    listener: Listener | None = None,
    tokens: int = 64,
) -> ModelEvaluation:
    return measure(
        loaded_model,
        sets,
        evaluation,
        seed=0,
        micro_batch_tokens=tokens,
        phase="baseline",
        listener=listener or SilentListener(),
        results_dir=results_dir,
    )


class Recorder(SilentListener):
    """Records events; requests a stop once `path` exists (None: at once)."""

    def __init__(self, request: StopRequest = StopRequest.NONE, path: Path | None = None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.path, self.request = path, request

    def emit(self, kind: str, **data: Any) -> None:
        self.events.append((kind, data))

    def stop_request(self) -> StopRequest:
        return self.request if self.path is None or self.path.exists() else StopRequest.NONE


def test_a_model_that_knows_scores_high_and_its_answers_are_saved(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    evaluation = run(loaded_model, sets, tmp_path)
    forget = evaluation.measurements.sets["forget"]
    assert evaluation.answers["forget"] == {i: answer(c) for i, c in enumerate(list(COUNTRIES)[:4], start=1)}
    assert all(forget[name].value == pytest.approx(1, abs=0.05) for name in EVALUATION.metrics[:4])
    retain = evaluation.measurements.sets["retain"]
    assert retain["probability"].per_example is not None
    assert retain["extraction_strength"].per_example is not None
    assert retain["probability"].per_example[-1] < 0.05  # type: ignore[operator]
    assert retain["extraction_strength"].per_example[-1] < 0.6  # type: ignore[operator]


@torch.no_grad()
def test_packed_scores_equal_those_of_single_rows(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    values = run(loaded_model, sets, tmp_path).measurements.sets["retain"]["probability"].per_example
    assert values is not None
    for value, example in zip(values, sets[1].examples, strict=True):
        logits = loaded_model.model(torch.tensor([example.token_ids]), use_cache=False).logits[0].log_softmax(-1)
        positions = range(example.num_prompt_tokens, len(example.token_ids))
        nll = -sum(float(logits[i - 1, example.token_ids[i]]) for i in positions) / len(positions)
        assert value == pytest.approx(math.exp(-nll), abs=1e-5)


def test_the_batch_size_changes_no_value(loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path) -> None:
    small = run(loaded_model, sets, tmp_path / "a", tokens=16).measurements.sets["retain"]["probability"]
    large = run(loaded_model, sets, tmp_path / "b", tokens=4096).measurements.sets["retain"]["probability"]
    assert small.value == pytest.approx(large.value, abs=1e-6)


def test_a_metric_without_its_inputs_is_absent_with_the_reason(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    evaluation = run(loaded_model, sets, tmp_path / "a")
    assert "this set has prompts" in (evaluation.measurements.sets["forget"]["perplexity"].absent_reason or "")
    general = evaluation.measurements.sets["general"]
    assert general["perplexity"].value is not None
    assert "with a prompt" in (general["rouge_l"].absent_reason or "")
    without = run(loaded_model, sets[:2], tmp_path / "b").measurements
    assert without.sets["general"]["perplexity"].absent_reason == "no general set was given"


def test_a_saved_set_is_read_and_not_measured_again(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    uninterrupted = run(loaded_model, sets, tmp_path / "whole")
    stopping = Recorder(StopRequest.INTERRUPT, tmp_path / "parts" / "forget.json")
    with pytest.raises(RunInterruptedError):
        run(loaded_model, sets, tmp_path / "parts", listener=stopping)
    saved = {path.stem for path in (tmp_path / "parts").glob("*.json")}
    assert saved == {"forget"}
    resumed = Recorder()
    assert run(loaded_model, sets, tmp_path / "parts", listener=resumed) == uninterrupted
    last = resumed.events[-1][1]
    assert last["done"] == last["total"] == 7 + 7 + 10


def test_a_cancel_is_obeyed_between_batches(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    with pytest.raises(RunCancelledError):
        run(loaded_model, sets, tmp_path, listener=Recorder(StopRequest.CANCEL))


def test_progress_counts_all_rows_and_contains_no_text(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(loaded_model, sets, tmp_path, listener=JsonLinesListener())
    lines = capsys.readouterr().out
    assert '"done":' in lines
    assert "eta_seconds" in lines
    assert not any(word in lines for word in ("capital", "Paris", "France"))


def test_only_answer_samples_are_generated_if_no_metric_needs_answers(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path
) -> None:
    settings = EVALUATION.model_copy(update={"metrics": ("probability",), "num_answer_samples": 3})
    evaluation = run(loaded_model, sets, tmp_path, evaluation=settings)
    assert {name: len(answers) for name, answers in evaluation.answers.items()} == {
        "forget": 2,
        "retain": 1,
        "general": 0,
    }
    samples = make_answer_samples(sets, {"base": evaluation.answers, "unlearned": evaluation.answers}, max_samples=3)
    assert [(sample.set, sample.row) for sample in samples] == [("forget", 1), ("forget", 2), ("retain", 1)]
    assert samples[0].prompt == question("France")
    assert samples[0].answers["base"] == answer("France")


def test_a_sample_lacks_the_answer_of_a_model_that_was_not_asked(sets: list[EvaluationSet]) -> None:
    answers = {"base": {"forget": {1: "a", 2: "b"}, "retain": {}}, "other": {"forget": {2: "c"}}}

    samples = make_answer_samples(sets[:1], answers, max_samples=2)

    assert [sample.answers for sample in samples] == [{"base": "a"}, {"base": "b", "other": "c"}]


def test_rows_are_selected_by_the_seed_in_the_sets_order(loaded_model: LoadedModel) -> None:
    rows = rows_of(list(COUNTRIES))
    examples = encode_rows(rows, loaded_model.encoder, max_tokens=128)
    selections = [
        [row.number for row in choose_rows("forget", rows, examples, max_rows=4, seed=s).rows] for s in (0, 0, 1)
    ]
    assert selections[0] == selections[1] == sorted(selections[0])
    assert selections[0] != selections[2]
    assert len(choose_rows("forget", rows, examples, max_rows=99, seed=0).rows) == len(rows)


def test_a_part_of_a_set_selects_what_the_complete_set_selects(loaded_model: LoadedModel) -> None:
    rows = rows_of(list(COUNTRIES))
    examples = encode_rows(rows, loaded_model.encoder, max_tokens=128)
    complete = choose_rows("retain", rows, examples, max_rows=5, seed=0)
    left_out = {complete.rows[0].number, 10}
    part = [row for row in rows if row.number not in left_out]

    chosen = choose_rows("retain", part, examples[: len(part)], max_rows=5, seed=0, given_numbers=range(1, 11))

    assert {row.number for row in complete.rows} - left_out < {row.number for row in chosen.rows}


def test_there_are_at_most_as_many_samples_as_questions(loaded_model: LoadedModel, sets: list[EvaluationSet]) -> None:
    samples = choose_sample_rows(sets, 1000)
    assert {name: len(rows) for name, rows in samples.items()} == {"forget": 4, "retain": 7, "general": 0}


def test_lack_of_memory_halves_the_batch_and_a_single_row_fails(
    loaded_model: LoadedModel, sets: list[EvaluationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(loaded_model, sets, tmp_path / "a").measurements.sets["forget"]
    forward, max_tokens = loaded_model.model.forward, 60

    def run_out_of_memory(*args: Any, **kwargs: Any) -> Any:
        if kwargs["input_ids"].shape[1] > max_tokens:
            raise torch.OutOfMemoryError("no more")
        return forward(*args, **kwargs)

    monkeypatch.setattr(loaded_model.model, "forward", run_out_of_memory)
    values = run(loaded_model, sets, tmp_path / "b", tokens=4096).measurements.sets["forget"]
    assert values["probability"].value == pytest.approx(expected["probability"].value, abs=1e-6)
    max_tokens = 5
    with pytest.raises(OutOfMemory, match="one row of"):
        run(loaded_model, sets, tmp_path / "c")
