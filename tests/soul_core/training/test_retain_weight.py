"""The retain term's weight: the spec's own, or under `pdu` a dual variable times it."""

import pytest
import torch

from soul_core.data.encoding import Example
from soul_core.spec import JobSpec
from soul_core.training.base_scores import ReferenceScores
from soul_core.training.micro_batching import Item, Unit
from soul_core.training.retain_weight import RetainWeight

#: Two retain answers of two and one tokens, which the base model gives up 3 and 0 nats for: 1 a token.
UNITS: list[Unit] = [
    (Item("forget", 0, Example((1, 2, 3), 1, 1)),),
    (Item("retain", 4, Example((1, 2, 3), 1, 1)),),
    (Item("retain", 7, Example((1, 2), 1, 2)),),
]


@pytest.fixture
def reference() -> ReferenceScores:
    scores = ReferenceScores(torch.device("cpu"))
    scores.kept["retain", "sequence_logp"] = {4: torch.tensor(-3.0), 7: torch.tensor(0.0)}
    return scores


def weight_of(forget: dict[str, object], retain: dict[str, object]) -> RetainWeight:
    return RetainWeight(JobSpec.model_validate({"forget": forget, "retain": retain}))


PDU = {"kind": "pdu", "slack": 0.5, "dual_start": 10.0, "dual_step": 2.0}


def test_it_moves_by_what_the_loss_is_over_the_bases_and_the_slack(reference: ReferenceScores) -> None:
    weight = weight_of(PDU, {"kind": "nll", "weight": 3.0})

    weight.after_step(0, 2.5, UNITS, reference)

    assert weight.value == pytest.approx(3.0 * (10.0 + 2.0 * (2.5 - (1.0 + 0.5))))
    assert weight.curve() == {"retain_weight": weight.value}


def test_under_kl_the_slack_alone_is_the_bound(reference: ReferenceScores) -> None:
    weight = weight_of(PDU, {"kind": "kl"})

    weight.after_step(0, 0.75, UNITS, reference)

    assert weight.value == pytest.approx(10.0 + 2.0 * (0.75 - 0.5))


def test_it_never_falls_below_zero_and_comes_back(reference: ReferenceScores) -> None:
    weight = weight_of(PDU, {"kind": "kl"})

    weight.after_step(0, -100.0, UNITS, reference)
    assert weight.value == 0.0
    weight.after_step(1, 1.5, UNITS, reference)

    assert weight.value == pytest.approx(2.0)


def test_it_waits_for_its_warm_up(reference: ReferenceScores) -> None:
    weight = weight_of({**PDU, "dual_warmup": 2}, {"kind": "kl"})

    moved = []
    for step in range(3):
        weight.after_step(step, 1.5, UNITS, reference)
        moved.append(weight.value != 10.0)

    assert moved == [False, False, True]


def test_a_restored_one_goes_on_where_it_was(reference: ReferenceScores) -> None:
    weight, other = (weight_of(PDU, {"kind": "nll"}) for _ in range(2))
    weight.after_step(0, 9.0, UNITS, reference)

    other.restore(weight.state())

    assert other.value == weight.value != 10.0


@pytest.mark.parametrize(("retain", "value"), [({"kind": "nll", "weight": 3.0}, 3.0), ({"kind": "none"}, 0.0)])
def test_under_any_other_term_it_is_the_specs_own(
    retain: dict[str, object], value: float, reference: ReferenceScores
) -> None:
    weight = weight_of({"kind": "npo"}, retain)

    weight.after_step(0, 99.0, UNITS, reference)

    assert weight.value == value
    assert weight.curve() == {}
