"""All attacks of a spec on several models: run once, kept one by one, side by side."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.attacks import ATTACKS, runner
from soul_core.attacks.context import AttackContext, AttackOutcome
from soul_core.attacks.runner import attack_model, make_attack_results
from soul_core.errors import EngineError, OutOfMemory, RunInterruptedError, TrainingDivergedError
from soul_core.events import SilentListener, StopRequest
from soul_core.models.loading import LoadedModel
from soul_core.report import AttackResult, MetricValue, ModelMeasurements
from soul_core.spec import Criterion, JobSpec
from soul_core.spec.attacks import CHEAP_ATTACKS, Poison, Probing, Quantize, Relearn, label_attacks
from tests.soul_core.attacks.conftest import EVALUATION, Recorder, sets_of, state_bytes

SPEC = JobSpec(attacks=(Quantize(bits=8, group=0), Probing(), Poison()), evaluation=EVALUATION)


def run(
    loaded: LoadedModel, kept: Path, *, name: str = "base", spec: JobSpec = SPEC, listener: Any = None
) -> dict[str, AttackOutcome]:
    return attack_model(loaded, name, sets_of(loaded), spec, listener=listener or SilentListener(), results_dir=kept)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds that really ran, in order."""
    ran: list[str] = []
    for kind, function in dict(ATTACKS).items():

        def counted(scene: AttackContext, spec: Any, kind: str = kind, function: Any = function) -> AttackOutcome:
            ran.append(kind)
            return function(scene, spec)

        monkeypatch.setitem(ATTACKS, kind, counted)
    return ran


def test_a_finished_attack_is_not_run_again(knowing: LoadedModel, tmp_path: Path, calls: list[str]) -> None:
    listening = Recorder()
    whole = run(knowing, tmp_path / "whole", listener=listening)
    assert calls == ["quantize", "probing", "poison"]

    with pytest.raises(RunInterruptedError):
        run(knowing, tmp_path / "parts", listener=Recorder(StopRequest.INTERRUPT, after=listening.asked - 3))
    done = [path.stem for path in (tmp_path / "parts").glob("*.json")]
    calls.clear()
    resumed = run(knowing, tmp_path / "parts")

    assert sorted(done) == ["probing", "quantize_8bit"]
    assert calls == ["poison"]
    assert {label: one.attacked for label, one in resumed.items()} == {
        label: one.attacked for label, one in whole.items()
    }


def test_a_kept_result_that_cannot_be_read_is_made_again(
    knowing: LoadedModel, tmp_path: Path, calls: list[str]
) -> None:
    run(knowing, tmp_path)
    calls.clear()
    (tmp_path / "probing.json").write_text('{"of": "another version"}')

    run(knowing, tmp_path)

    assert calls == ["probing"]


def test_no_attacks_touch_nothing(knowing: LoadedModel, tmp_path: Path) -> None:
    assert run(knowing, tmp_path / "kept", spec=JobSpec(attacks=())) == {}
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize("error", [OutOfMemory("no memory for it"), TrainingDivergedError("it diverged")])
def test_what_an_attack_lacks_makes_it_absent_and_ends_no_run(
    error: EngineError, knowing: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(scene: AttackContext, spec: Any) -> AttackOutcome:
        raise error

    monkeypatch.setitem(ATTACKS, "quantize", failing)
    listener = Recorder()

    found = run(knowing, tmp_path, listener=listener)

    assert found["quantize_8bit"].absent_reason == error.message
    assert found["probing"].attacked
    assert ("warning", {"message": f"quantize_8bit on base: given up: {error.message}"}) in listener.events


def test_a_relearning_that_diverges_restores_the_model_and_says_so(knowing: LoadedModel, tmp_path: Path) -> None:
    before = state_bytes(knowing)
    wild = JobSpec(attacks=(Relearn(set="retain", lr=1.0, steps=200),), evaluation=EVALUATION)
    with torch.no_grad():
        knowing.model.lm_head.weight[5].fill_(float("inf"))
    broken = state_bytes(knowing)

    found = run(knowing, tmp_path, spec=wild)["relearn_retain"]

    assert "before its update" in (found.absent_reason or "")
    assert state_bytes(knowing) == broken != before


def test_an_attack_that_leaves_the_model_changed_ends_the_run(
    knowing: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiling(scene: AttackContext, spec: Any) -> AttackOutcome:
        with torch.no_grad():
            scene.loaded.model.lm_head.weight[0, 0] += 1e-3
        return AttackOutcome()

    monkeypatch.setitem(ATTACKS, "quantize", spoiling)

    with pytest.raises(EngineError, match="quantize_8bit left the model base changed"):
        run(knowing, tmp_path)
    assert not (tmp_path / "quantize_8bit.json").exists()


def test_progress_goes_from_none_to_all_attacks_and_time_left_falls_to_nothing(
    knowing: LoadedModel, tmp_path: Path
) -> None:
    listener = Recorder()

    run(knowing, tmp_path, listener=listener)

    told = [data for kind, data in listener.events if kind == "progress"]
    done = [data["done"] for data in told]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 3)
    assert {data["total"] for data in told} == {3}
    assert told[-1]["eta_seconds"] == 0
    announced = [data["detail"] for kind, data in listener.events if kind == "phase"]
    assert announced == ["quantize_8bit", "probing", "poison"]


def test_a_metric_that_a_criterion_asks_for_is_taken_under_attack(knowing: LoadedModel, tmp_path: Path) -> None:
    asked = Criterion(set="forget", attack="quantize_8bit", metric="perplexity", at_most=1)
    spec = JobSpec(attacks=(Quantize(bits=8, group=0),), evaluation=EVALUATION, criteria=(asked,))

    found = run(knowing, tmp_path, spec=spec)["quantize_8bit"]

    assert "perplexity" in found.attacked["forget"]


def test_the_default_attacks_have_different_labels() -> None:
    assert len(label_attacks(CHEAP_ATTACKS)) == len(CHEAP_ATTACKS)


@pytest.fixture
def num_answer_samples(knowing: LoadedModel, retrained: LoadedModel, tmp_path: Path) -> dict[str, AttackResult]:
    per_model = {
        "retrained": run(retrained, tmp_path / "retrained", name="retrained"),
        "base": run(knowing, tmp_path / "base"),
        "unlearned": run(retrained, tmp_path / "unlearned", name="unlearned"),
    }
    values = {"base": (0.9, 0.8), "unlearned": (0.2, 0.8)}
    measured = {
        model: ModelMeasurements(
            sets={"retain": {"probability": MetricValue(value=0.5, per_example=rows)}}, rows={"retain": (1, 2)}
        )
        for model, rows in values.items()
    }
    found = make_attack_results(per_model, SPEC, judged="unlearned", measurements=measured)
    return {one.label: one for one in found}


def test_models_stand_side_by_side_on_the_same_rows(num_answer_samples: dict[str, AttackResult]) -> None:
    quantized, probed = num_answer_samples["quantize_8bit"], num_answer_samples["probing"]

    assert list(num_answer_samples) == ["quantize_8bit", "probing", "poison"]
    for one in (quantized, probed):
        assert set(one.attacked) == set(one.baseline) == {"base", "unlearned", "retrained"}
        assert one.rows == {"forget": (1, 2, 3, 4, 5)}
        assert one.absent_reason is None
        assert one.seconds > 0
        assert len(one.notes) == len(set(one.notes))
    assert set(probed.variants) == {"layer 0", "layer 1"}
    assert set(probed.variants["layer 0"]) == {"base", "unlearned", "retrained"}
    assert quantized.settings == {"kind": "quantize", "bits": 8, "group": 0}


def test_poison_shows_whom_the_rows_hit(num_answer_samples: dict[str, AttackResult]) -> None:
    poisoned = num_answer_samples["poison"]

    assert poisoned.absent_reason is None
    assert poisoned.attacked == {}
    last = poisoned.findings[-1]
    assert [(hit.set, hit.row) for hit in last.rows] == [("retain", 1)]
    assert any("point against the retain set" in finding.title for finding in poisoned.findings)
    assert not any("Not run on" in note for note in poisoned.notes)


def test_an_attack_that_ran_on_some_models_says_which_it_did_not_run_on() -> None:
    spec = JobSpec(attacks=(Probing(),))
    per_model = {
        "base": {"probing": AttackOutcome(seconds=1)},
        "retrained": {"probing": AttackOutcome(absent_reason="no room")},
    }

    (found,) = make_attack_results(per_model, spec, judged="unlearned", measurements={})

    assert found.absent_reason is None
    assert found.notes == ("Not run on retrained: no room.",)


def test_an_attack_that_ran_nowhere_is_absent_with_the_reasons() -> None:
    spec = JobSpec(attacks=(Probing(),))
    absent = {"probing": AttackOutcome(absent_reason="no general set was given")}
    per_model = {"base": absent, "unlearned": absent}

    (found,) = make_attack_results(per_model, spec, judged="unlearned", measurements={})
    (nowhere,) = make_attack_results({}, spec, judged="unlearned", measurements={})

    assert found.absent_reason == "no general set was given"
    assert nowhere.absent_reason == "it was run on no model"


def test_the_check_of_restoration_sees_a_single_bit(knowing: LoadedModel) -> None:
    before = runner.compute_fingerprint(knowing.model)
    weight = knowing.model.lm_head.weight
    with torch.no_grad():
        weight.view(torch.int32)[3, 3] ^= 1

    assert runner.compute_fingerprint(knowing.model) != before
