"""All attacks of a spec on several models: each run once, saved one by one, compared."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.attacks import ATTACKS, runner
from soul_core.attacks.context import AttackContext
from soul_core.attacks.runner import attack_model, make_attack_results
from soul_core.errors import EngineError, OutOfMemory, RunInterruptedError, TrainingDivergedError
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.events import SilentListener, StopRequest
from soul_core.models.loading import LoadedModel
from soul_core.report import AttackResult, MetricValue, ModelMeasurements
from soul_core.spec import Criterion, JobSpec
from soul_core.spec.attacks import CHEAP_ATTACKS, Poison, Probing, Quantize, Relearn, label_attacks
from tests.soul_core.attacks.conftest import EVALUATION, Recorder, make_sets, state_bytes

SPEC = JobSpec(attacks=(Quantize(bits=8, group=0), Probing(), Poison()), evaluation=EVALUATION)


def run(
    loaded: LoadedModel, results_dir: Path, *, name: str = "base", spec: JobSpec = SPEC, listener: Any = None
) -> dict[str, AttackOutcome]:
    return attack_model(
        loaded, name, make_sets(loaded), spec, listener=listener or SilentListener(), results_dir=results_dir
    )


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds that ran, in order."""
    kinds: list[str] = []
    for kind, function in dict(ATTACKS).items():

        def record(context: AttackContext, spec: Any, kind: str = kind, function: Any = function) -> AttackOutcome:
            kinds.append(kind)
            return function(context, spec)

        monkeypatch.setitem(ATTACKS, kind, record)
    return kinds


def test_a_finished_attack_is_not_run_again(knowing: LoadedModel, tmp_path: Path, calls: list[str]) -> None:
    listener = Recorder()
    uninterrupted = run(knowing, tmp_path / "whole", listener=listener)
    assert calls == ["quantize", "probing", "poison"]

    with pytest.raises(RunInterruptedError):
        run(knowing, tmp_path / "parts", listener=Recorder(StopRequest.INTERRUPT, after=listener.num_checks - 3))
    saved = [path.stem for path in (tmp_path / "parts").glob("*.json")]
    calls.clear()
    resumed = run(knowing, tmp_path / "parts")

    assert sorted(saved) == ["probing", "quantize_8bit"]
    assert calls == ["poison"]
    assert {label: outcome.attacked for label, outcome in resumed.items()} == {
        label: outcome.attacked for label, outcome in uninterrupted.items()
    }


def test_a_saved_outcome_of_another_version_is_measured_again(
    knowing: LoadedModel, tmp_path: Path, calls: list[str]
) -> None:
    run(knowing, tmp_path)
    calls.clear()
    (tmp_path / "probing.json").write_text('{"of": "another version"}')

    run(knowing, tmp_path)

    assert calls == ["probing"]


def test_without_attacks_no_folder_is_created(knowing: LoadedModel, tmp_path: Path) -> None:
    assert run(knowing, tmp_path / "results", spec=JobSpec(attacks=())) == {}
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("error", [OutOfMemory("no memory for it"), TrainingDivergedError("it diverged")])
def test_an_attack_that_fails_is_absent_and_the_others_run(
    error: EngineError, knowing: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(context: AttackContext, spec: Any) -> AttackOutcome:
        raise error

    monkeypatch.setitem(ATTACKS, "quantize", failing)
    listener = Recorder()

    outcomes = run(knowing, tmp_path, listener=listener)

    assert outcomes["quantize_8bit"].absent_reason == error.message
    assert outcomes["probing"].attacked
    assert ("warning", {"message": f"quantize_8bit on base: the attack failed: {error.message}"}) in listener.events


def test_a_relearning_that_diverges_is_absent_and_restores_the_model(knowing: LoadedModel, tmp_path: Path) -> None:
    before = state_bytes(knowing)
    wild = JobSpec(attacks=(Relearn(set="retain", lr=1.0, steps=200),), evaluation=EVALUATION)
    with torch.no_grad():
        knowing.model.lm_head.weight[5].fill_(float("inf"))
    broken = state_bytes(knowing)

    outcome = run(knowing, tmp_path, spec=wild)["relearn_retain"]

    assert "before its update" in (outcome.absent_reason or "")
    assert state_bytes(knowing) == broken != before


def test_an_attack_that_leaves_the_model_changed_ends_the_run(
    knowing: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiling(context: AttackContext, spec: Any) -> AttackOutcome:
        with torch.no_grad():
            context.loaded.model.lm_head.weight[0, 0] += 1e-3
        return AttackOutcome()

    monkeypatch.setitem(ATTACKS, "quantize", spoiling)

    with pytest.raises(EngineError, match="quantize_8bit left the model base changed"):
        run(knowing, tmp_path)
    assert not (tmp_path / "quantize_8bit.json").exists()


def test_progress_goes_from_no_to_all_attacks_and_the_time_left_to_zero(knowing: LoadedModel, tmp_path: Path) -> None:
    listener = Recorder()

    run(knowing, tmp_path, listener=listener)

    progress = [data for kind, data in listener.events if kind == "progress"]
    done = [data["done"] for data in progress]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 3)
    assert {data["total"] for data in progress} == {3}
    assert progress[-1]["eta_seconds"] == 0
    announced = [data["detail"] for kind, data in listener.events if kind == "phase"]
    assert announced == ["quantize_8bit", "probing", "poison"]


def test_a_metric_of_a_criterion_on_an_attack_is_measured_under_it(knowing: LoadedModel, tmp_path: Path) -> None:
    criterion = Criterion(set="forget", attack="quantize_8bit", metric="perplexity", at_most=1)
    spec = JobSpec(attacks=(Quantize(bits=8, group=0),), evaluation=EVALUATION, criteria=(criterion,))

    outcome = run(knowing, tmp_path, spec=spec)["quantize_8bit"]

    assert "perplexity" in outcome.attacked["forget"]


def test_the_default_attacks_have_different_labels() -> None:
    assert len(label_attacks(CHEAP_ATTACKS)) == len(CHEAP_ATTACKS)


@pytest.fixture
def results(knowing: LoadedModel, retrained_model: LoadedModel, tmp_path: Path) -> dict[str, AttackResult]:
    outcomes = {
        "retrained": run(retrained_model, tmp_path / "retrained", name="retrained"),
        "base": run(knowing, tmp_path / "base"),
        "unlearned": run(retrained_model, tmp_path / "unlearned", name="unlearned"),
    }
    values = {"base": (0.9, 0.8), "unlearned": (0.2, 0.8)}
    measurements = {
        model: ModelMeasurements(
            sets={"retain": {"probability": MetricValue(value=0.5, per_example=rows)}}, rows={"retain": (1, 2)}
        )
        for model, rows in values.items()
    }
    results = make_attack_results(outcomes, SPEC, judged="unlearned", measurements=measurements)
    return {result.label: result for result in results}


def test_models_are_compared_on_the_same_rows(results: dict[str, AttackResult]) -> None:
    quantized, probed = results["quantize_8bit"], results["probing"]

    assert list(results) == ["quantize_8bit", "probing", "poison"]
    for result in (quantized, probed):
        assert set(result.attacked) == set(result.baseline) == {"base", "unlearned", "retrained"}
        assert result.rows == {"forget": (1, 2, 3, 4, 5)}
        assert result.absent_reason is None
        assert result.seconds > 0
        assert len(result.notes) == len(set(result.notes))
    assert set(probed.variants) == {"layer 0", "layer 1"}
    assert set(probed.variants["layer 0"]) == {"base", "unlearned", "retrained"}
    assert quantized.settings == {"kind": "quantize", "bits": 8, "group": 0}


def test_poison_shows_which_rows_were_damaged(results: dict[str, AttackResult]) -> None:
    poisoned = results["poison"]

    assert poisoned.absent_reason is None
    assert poisoned.attacked == {}
    last = poisoned.findings[-1]
    assert [(flagged.set, flagged.row) for flagged in last.rows] == [("retain", 1)]
    assert any("point against the retain set" in finding.title for finding in poisoned.findings)
    assert not any("Not run on" in note for note in poisoned.notes)


def test_an_attack_that_ran_on_some_models_names_the_others() -> None:
    spec = JobSpec(attacks=(Probing(),))
    per_model = {
        "base": {"probing": AttackOutcome(seconds=1)},
        "retrained": {"probing": AttackOutcome(absent_reason="no memory")},
    }

    (result,) = make_attack_results(per_model, spec, judged="unlearned", measurements={})

    assert result.absent_reason is None
    assert result.notes == ("Not run on retrained: no memory.",)


def test_an_attack_that_ran_nowhere_is_absent_with_the_reasons() -> None:
    spec = JobSpec(attacks=(Probing(),))
    absent = {"probing": AttackOutcome(absent_reason="no general set was given")}
    per_model = {"base": absent, "unlearned": absent}

    (result,) = make_attack_results(per_model, spec, judged="unlearned", measurements={})
    (nowhere,) = make_attack_results({}, spec, judged="unlearned", measurements={})

    assert result.absent_reason == "no general set was given"
    assert nowhere.absent_reason == "it was run on no model"


def test_the_fingerprint_detects_a_single_bit(knowing: LoadedModel) -> None:
    before = runner.compute_fingerprint(knowing.model)
    weight = knowing.model.lm_head.weight
    with torch.no_grad():
        weight.view(torch.int32)[3, 3] ^= 1

    assert runner.compute_fingerprint(knowing.model) != before
