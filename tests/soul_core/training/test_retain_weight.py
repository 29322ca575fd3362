"""The retain term's weight: the spec's own, or under `pdu` a dual variable times it."""

import pytest
import torch

from soul_core.data.encoding import Example
from soul_core.spec import JobSpec
from soul_core.training.base_scores import BaseScores
from soul_core.training.micro_batching import BatchItem, BatchUnit
from soul_core.training.retain_weight import RetainWeight

#: Two retain answers of two and one tokens, which the base model gives up 3 and 0 nats for: 1 a token.
UNITS: list[BatchUnit] = [
    (BatchItem("forget", 0, Example((1, 2, 3), 1, 1)),),
    (BatchItem("retain", 4, Example((1, 2, 3), 1, 1)),),
    (BatchItem("retain", 7, Example((1, 2), 1, 2)),),
]


@pytest.fixture
def reference() -> BaseScores:
    scores = BaseScores(torch.device("cpu"))
    scores.tensors["retain", "sequence_logp"] = {4: torch.tensor(-3.0), 7: torch.tensor(0.0)}
    return scores


def weight_of(forget: dict[str, object], retain: dict[str, object]) -> RetainWeight:
    return RetainWeight(JobSpec.model_validate({"forget": forget, "retain": retain}))


PDU = {"kind": "pdu", "slack": 0.5, "dual_start": 10.0, "dual_step": 2.0}


def test_it_moves_by_what_the_loss_is_over_the_bases_and_the_slack(reference: BaseScores) -> None:
    weight = weight_of(PDU, {"kind": "nll", "weight": 3.0})

    weight.update(0, 2.5, UNITS, reference)

    assert weight.value == pytest.approx(3.0 * (10.0 + 2.0 * (2.5 - (1.0 + 0.5))))
    assert weight.get_curve() == {"retain_weight": weight.value}


def test_under_kl_the_slack_alone_is_the_bound(reference: BaseScores) -> None:
    weight = weight_of(PDU, {"kind": "kl"})

    weight.update(0, 0.75, UNITS, reference)

    assert weight.value == pytest.approx(10.0 + 2.0 * (0.75 - 0.5))


def test_it_never_falls_below_zero_and_comes_back(reference: BaseScores) -> None:
    weight = weight_of(PDU, {"kind": "kl"})

    weight.update(0, -100.0, UNITS, reference)
    assert weight.value == 0.0
    weight.update(1, 1.5, UNITS, reference)

    assert weight.value == pytest.approx(2.0)


def test_it_waits_for_its_warm_up(reference: BaseScores) -> None:
    weight = weight_of({**PDU, "dual_warmup": 2}, {"kind": "kl"})

    moved = []
    for step in range(3):
        weight.update(step, 1.5, UNITS, reference)
        moved.append(weight.value != 10.0)

    assert moved == [False, False, True]


def test_a_restored_one_goes_on_where_it_was(reference: BaseScores) -> None:
    weight, other = (weight_of(PDU, {"kind": "nll"}) for _ in range(2))
    weight.update(0, 9.0, UNITS, reference)

    other.load_state_dict(weight.state_dict())

    assert other.value == weight.value != 10.0


@pytest.mark.parametrize(("retain", "value"), [({"kind": "nll", "weight": 3.0}, 3.0), ({"kind": "none"}, 0.0)])
def test_under_any_other_term_it_is_the_specs_own(
    retain: dict[str, object], value: float, reference: BaseScores
) -> None:
    weight = weight_of({"kind": "npo"}, retain)

    weight.update(0, 99.0, UNITS, reference)

    assert weight.value == value
    assert weight.get_curve() == {}
