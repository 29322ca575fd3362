"""The claims that hold for every attack of the table."""

import random
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from soul_core.attacks import ATTACKS
from soul_core.errors import RunCancelledError, RunInterruptedError
from soul_core.evaluation.model_evaluation import AttackOutcome
from soul_core.events import StopRequest
from soul_core.models.loading import LoadedModel
from soul_core.spec import FORGET
from soul_core.spec.attacks import Attack, Downstream, Poison, Probing, Prompting, Quantize, Relearn
from tests.soul_core.attacks.conftest import Recorder, attack, make_sets, state_bytes, value

#: Settings of each kind that have an effect on a model of 30,000 weights.
SETTINGS_BY_KIND: dict[str, tuple[Any, ...]] = {
    "relearn": (Relearn(fraction=0.4, steps=8, lr=1e-3), Relearn(set="retain", steps=8, lr=3e-4)),
    "quantize": (Quantize(bits=8, group=0), Quantize(bits=4)),
    "prompting": (Prompting(),),
    "downstream": (Downstream(lr=1e-4),),
    "probing": (Probing(),),
    "poison": (Poison(),),
}
ALL_SETTINGS = [
    pytest.param(settings, id=settings.label)
    for settings_of_kind in SETTINGS_BY_KIND.values()
    for settings in settings_of_kind
]
#: Attacks that measure the forget answers; poison reads gradients instead.
ASKING_SETTINGS = [
    pytest.param(settings, id=settings.label)
    for settings_of_kind in SETTINGS_BY_KIND.values()
    for settings in settings_of_kind
    if settings.kind != "poison"
]


def test_spec_table_and_this_file_have_the_same_kinds() -> None:
    kinds = {member.model_fields["kind"].default for member in get_args(get_args(Attack)[0])}

    assert kinds == set(ATTACKS) == set(SETTINGS_BY_KIND)


@pytest.mark.parametrize("settings", ASKING_SETTINGS)
def test_the_base_model_reveals_what_it_knows_and_a_retrained_one_little(
    settings: Any, knowing: LoadedModel, retrained_model: LoadedModel, tmp_path: Path
) -> None:
    base = attack(knowing, settings, tmp_path / "base")
    reference = attack(retrained_model, settings, tmp_path / "retrained", name="retrained")

    assert value(base) > 0.75 > 0.5 > value(reference)
    assert value(base, "exact_memorization") > value(reference, "exact_memorization")


@pytest.mark.parametrize("settings", ASKING_SETTINGS)
def test_metrics_cover_the_same_rows_with_and_without_the_attack(
    settings: Any, knowing: LoadedModel, tmp_path: Path
) -> None:
    outcome = attack(knowing, settings, tmp_path)

    attacked, baseline = outcome.attacked[FORGET]["probability"], outcome.baseline[FORGET]["probability"]
    assert attacked.interval is not None
    assert attacked.per_example is not None
    assert baseline.per_example is not None
    assert len(attacked.per_example) == len(baseline.per_example) == len(outcome.rows[FORGET])
    assert outcome.notes


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_the_model_and_all_random_states_are_bit_identical_afterwards(
    settings: Any, knowing: LoadedModel, tmp_path: Path
) -> None:
    before, requires_grad = state_bytes(knowing), [p.requires_grad for p in knowing.model.parameters()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()  # type: ignore[union-attr]

    attack(knowing, settings, tmp_path)

    assert state_bytes(knowing) == before
    assert [p.requires_grad for p in knowing.model.parameters()] == requires_grad
    assert all(p.grad is None for p in knowing.model.parameters())
    assert not knowing.model.training
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()  # type: ignore[union-attr]
    assert after == states


@pytest.mark.parametrize(
    ("stop_request", "error", "quarters"),
    [(StopRequest.CANCEL, RunCancelledError, 2), (StopRequest.INTERRUPT, RunInterruptedError, 3)],
)
@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_a_stop_request_is_obeyed_and_the_model_restored(
    settings: Any,
    stop_request: StopRequest,
    error: type[Exception],
    quarters: int,
    knowing: LoadedModel,
    tmp_path: Path,
) -> None:
    uninterrupted = Recorder()
    attack(knowing, settings, tmp_path / "whole", listener=uninterrupted)
    before = state_bytes(knowing)

    with pytest.raises(error):
        attack(
            knowing,
            settings,
            tmp_path / "part",
            listener=Recorder(stop_request, after=uninterrupted.num_checks * quarters // 4),
        )

    assert state_bytes(knowing) == before


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_after_an_error_the_model_is_restored(
    settings: Any, knowing: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, forward = state_bytes(knowing), knowing.model.forward
    num_passes = 0 if settings.kind == "probing" else 3  # forward passes before the fault; probing has only one

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal num_passes
        num_passes -= 1
        if num_passes < 0:
            raise ArithmeticError("a fault in the middle")
        return forward(*arguments, **keywords)

    sets = make_sets(knowing)
    attack(knowing, Probing(), tmp_path)  # saves the baseline metrics, so that the fault occurs after them
    monkeypatch.setattr(knowing.model, "forward", failing)
    (tmp_path / f"{settings.label}.json").unlink(missing_ok=True)

    with pytest.raises(ArithmeticError):
        attack(knowing, settings, tmp_path, sets=sets)

    assert state_bytes(knowing) == before


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_after_an_interruption_it_has_the_same_outcome(settings: Any, knowing: LoadedModel, tmp_path: Path) -> None:
    listener = Recorder()
    uninterrupted = attack(knowing, settings, tmp_path / "whole", listener=listener)

    with pytest.raises(RunInterruptedError):
        attack(
            knowing,
            settings,
            tmp_path / "parts",
            listener=Recorder(StopRequest.INTERRUPT, after=listener.num_checks * 2 // 3),
        )
    resumed = attack(knowing, settings, tmp_path / "parts")

    assert resumed.model_copy(update={"seconds": 0.0}) == uninterrupted.model_copy(update={"seconds": 0.0})


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_it_emits_progress_but_no_curve_row_or_text(settings: Any, knowing: LoadedModel, tmp_path: Path) -> None:
    listener = Recorder()

    attack(knowing, settings, tmp_path, listener=listener)

    kinds = {kind for kind, _ in listener.events}
    progress = [data for kind, data in listener.events if kind == "progress"]
    assert kinds == {"phase", "progress"}
    assert all(data["phase"] == "attack" and data["detail"] == settings.label for data in progress)
    assert progress[-1]["done"] == progress[-1]["total"] == 1
    assert any(data["eta_seconds"] is not None for data in progress)
    assert not any(word in str(listener.events) for word in ("capital", "Paris"))


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_an_outcome_is_saved_as_json_that_reads_back_equal(settings: Any, knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, settings, tmp_path)

    assert AttackOutcome.model_validate_json((tmp_path / f"{settings.label}.json").read_text()) == outcome
    assert not list(tmp_path.glob("*.work"))


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_without_a_forget_set_it_is_absent_with_the_reason(settings: Any, knowing: LoadedModel, tmp_path: Path) -> None:
    outcome = attack(knowing, settings, tmp_path, sets=make_sets(knowing)[1:])

    assert outcome.absent_reason == "no forget set was given"
    assert not outcome.attacked
