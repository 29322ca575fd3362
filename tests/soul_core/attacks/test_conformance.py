"""What every attack of the table must do, whatever it is."""

import random
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch

from soul_core.attacks import ATTACKS
from soul_core.attacks.context import AttackOutcome
from soul_core.errors import RunCancelledError, RunInterruptedError
from soul_core.events import StopRequest
from soul_core.models.loading import LoadedModel
from soul_core.spec import FORGET
from soul_core.spec.attacks import Attack, Downstream, Poison, Probing, Prompting, Quantize, Relearn
from tests.soul_core.attacks.conftest import Recorder, attack, sets_of, state_bytes, value

#: One or more of each kind, at settings that bite on a model of 30,000 weights.
ATTACKED: dict[str, tuple[Any, ...]] = {
    "relearn": (Relearn(fraction=0.4, steps=8, lr=1e-3), Relearn(set="retain", steps=8, lr=3e-4)),
    "quantize": (Quantize(bits=8, group=0), Quantize(bits=4)),
    "prompting": (Prompting(),),
    "downstream": (Downstream(lr=1e-4),),
    "probing": (Probing(),),
    "poison": (Poison(),),
}
EVERY = [pytest.param(one, id=one.label) for of_kind in ATTACKED.values() for one in of_kind]
#: Those that ask for the forget answers: poison looks at gradients instead.
ASKING = [pytest.param(one, id=one.label) for of_kind in ATTACKED.values() for one in of_kind if one.kind != "poison"]


def test_every_kind_of_the_spec_is_in_the_table_and_tested_here() -> None:
    kinds = {member.model_fields["kind"].default for member in get_args(get_args(Attack)[0])}

    assert kinds == set(ATTACKS) == set(ATTACKED)


@pytest.mark.parametrize("one", ASKING)
def test_an_untouched_model_gives_away_what_it_knows_and_a_retrained_one_little(
    one: Any, knowing: LoadedModel, retrained: LoadedModel, tmp_path: Path
) -> None:
    of_base = attack(knowing, one, tmp_path / "base")
    of_reference = attack(retrained, one, tmp_path / "retrained", name="retrained")

    assert value(of_base) > 0.75 > 0.5 > value(of_reference)
    assert value(of_base, "exact_memorization") > value(of_reference, "exact_memorization")


@pytest.mark.parametrize("one", ASKING)
def test_a_criterion_finds_its_metric_and_the_same_rows_without_the_attack(
    one: Any, knowing: LoadedModel, tmp_path: Path
) -> None:
    attacked = attack(knowing, one, tmp_path)

    under, without = attacked.attacked[FORGET]["probability"], attacked.baseline[FORGET]["probability"]
    assert under.interval is not None
    assert under.per_example is not None
    assert without.per_example is not None
    assert len(under.per_example) == len(without.per_example) == len(attacked.rows[FORGET])
    assert attacked.notes


@pytest.mark.parametrize("one", EVERY)
def test_the_model_is_the_same_to_the_bit_and_so_is_all_randomness(
    one: Any, knowing: LoadedModel, tmp_path: Path
) -> None:
    before, flags = state_bytes(knowing), [p.requires_grad for p in knowing.model.parameters()]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    states = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()  # type: ignore[union-attr]

    attack(knowing, one, tmp_path)

    assert state_bytes(knowing) == before
    assert [p.requires_grad for p in knowing.model.parameters()] == flags
    assert all(p.grad is None for p in knowing.model.parameters())
    assert not knowing.model.training
    after = random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().tolist()  # type: ignore[union-attr]
    assert after == states


@pytest.mark.parametrize(
    ("wish", "error", "share"),
    [(StopRequest.CANCEL, RunCancelledError, 2), (StopRequest.INTERRUPT, RunInterruptedError, 3)],
)
@pytest.mark.parametrize("one", EVERY)
def test_a_wish_in_the_middle_is_heard_and_leaves_the_model_as_it_was(
    one: Any, wish: StopRequest, error: type[Exception], share: int, knowing: LoadedModel, tmp_path: Path
) -> None:
    whole = Recorder()
    attack(knowing, one, tmp_path / "whole", listener=whole)
    before = state_bytes(knowing)

    with pytest.raises(error):
        attack(knowing, one, tmp_path / "part", listener=Recorder(wish, after=whole.asked * share // 4))

    assert state_bytes(knowing) == before


@pytest.mark.parametrize("one", EVERY)
def test_an_error_in_the_middle_leaves_the_model_as_it_was(
    one: Any, knowing: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, forward = state_bytes(knowing), knowing.model.forward
    room = 0 if one.kind == "probing" else 3  # forward passes before the fault; probing has but one

    def failing(*arguments: Any, **keywords: Any) -> Any:
        nonlocal room
        room -= 1
        if room < 0:
            raise ArithmeticError("a fault in the middle")
        return forward(*arguments, **keywords)

    sets = sets_of(knowing)
    attack(knowing, Probing(), tmp_path)  # measures the model without an attack: the fault strikes behind that
    monkeypatch.setattr(knowing.model, "forward", failing)
    (tmp_path / f"{one.label}.json").unlink(missing_ok=True)

    with pytest.raises(ArithmeticError):
        attack(knowing, one, tmp_path, sets=sets)

    assert state_bytes(knowing) == before


@pytest.mark.parametrize("one", EVERY)
def test_begun_again_after_an_interruption_it_comes_out_the_same(
    one: Any, knowing: LoadedModel, tmp_path: Path
) -> None:
    listening = Recorder()
    whole = attack(knowing, one, tmp_path / "whole", listener=listening)

    with pytest.raises(RunInterruptedError):
        attack(
            knowing, one, tmp_path / "parts", listener=Recorder(StopRequest.INTERRUPT, after=listening.asked * 2 // 3)
        )
    resumed = attack(knowing, one, tmp_path / "parts")

    assert resumed.model_copy(update={"seconds": 0.0}) == whole.model_copy(update={"seconds": 0.0})


@pytest.mark.parametrize("one", EVERY)
def test_it_tells_how_far_it_is_and_no_curve_row_or_text(one: Any, knowing: LoadedModel, tmp_path: Path) -> None:
    listener = Recorder()

    attack(knowing, one, tmp_path, listener=listener)

    kinds = {kind for kind, _ in listener.events}
    told = [data for kind, data in listener.events if kind == "progress"]
    assert kinds == {"phase", "progress"}
    assert all(data["phase"] == "attack" and data["detail"] == one.label for data in told)
    assert told[-1]["done"] == told[-1]["total"] == 1
    assert any(data["eta_seconds"] is not None for data in told)
    assert not any(word in str(listener.events) for word in ("capital", "Paris"))


@pytest.mark.parametrize("one", EVERY)
def test_a_result_is_kept_as_json_that_reads_back_equal(one: Any, knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, one, tmp_path)

    assert AttackOutcome.model_validate_json((tmp_path / f"{one.label}.json").read_text()) == attacked
    assert not list(tmp_path.glob("*.work"))


@pytest.mark.parametrize("one", EVERY)
def test_without_a_forget_set_it_is_absent_with_the_reason(one: Any, knowing: LoadedModel, tmp_path: Path) -> None:
    attacked = attack(knowing, one, tmp_path, sets=sets_of(knowing)[1:])

    assert attacked.absent_reason == "no forget set was given"
    assert not attacked.attacked
