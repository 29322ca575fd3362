"""The retain term's weight: the spec's own, or under `pdu` that times a dual variable."""

import pytest
import torch

from soul_core.data.encoding import Example
from soul_core.spec import JobSpec
from soul_core.training.base_scores import BaseScores
from soul_core.training.micro_batching import BatchItem, BatchUnit
from soul_core.training.retain_weight import RetainWeight

#: Two retain answers of two tokens and one, with 3 and 0 nats under the base model: 1 nat per token.
UNITS: list[BatchUnit] = [
    (BatchItem("forget", 0, Example((1, 2, 3), 1, 1)),),
    (BatchItem("retain", 4, Example((1, 2, 3), 1, 1)),),
    (BatchItem("retain", 7, Example((1, 2), 1, 2)),),
]


@pytest.fixture
def base_scores() -> BaseScores:
    scores = BaseScores(torch.device("cpu"))
    scores.tensors["retain", "sequence_logp"] = {4: torch.tensor(-3.0), 7: torch.tensor(0.0)}
    return scores


def make_weight(forget: dict[str, object], retain: dict[str, object]) -> RetainWeight:
    return RetainWeight(JobSpec.model_validate({"forget": forget, "retain": retain}))


PDU = {"kind": "pdu", "slack": 0.5, "dual_start": 10.0, "dual_step": 2.0}


def test_it_changes_by_the_excess_over_the_base_models_loss_and_the_slack(base_scores: BaseScores) -> None:
    weight = make_weight(PDU, {"kind": "nll", "weight": 3.0})

    weight.update(0, 2.5, UNITS, base_scores)

    assert weight.value == pytest.approx(3.0 * (10.0 + 2.0 * (2.5 - (1.0 + 0.5))))
    assert weight.get_curve() == {"retain_weight": weight.value}


def test_under_kl_the_slack_alone_is_the_bound(base_scores: BaseScores) -> None:
    weight = make_weight(PDU, {"kind": "kl"})

    weight.update(0, 0.75, UNITS, base_scores)

    assert weight.value == pytest.approx(10.0 + 2.0 * (0.75 - 0.5))


def test_it_never_falls_below_zero_and_rises_again(base_scores: BaseScores) -> None:
    weight = make_weight(PDU, {"kind": "kl"})

    weight.update(0, -100.0, UNITS, base_scores)
    assert weight.value == 0.0
    weight.update(1, 1.5, UNITS, base_scores)

    assert weight.value == pytest.approx(2.0)


def test_it_stays_during_the_warm_up(base_scores: BaseScores) -> None:
    weight = make_weight({**PDU, "dual_warmup": 2}, {"kind": "kl"})

    has_changed = []
    for step in range(3):
        weight.update(step, 1.5, UNITS, base_scores)
        has_changed.append(weight.value != 10.0)

    assert has_changed == [False, False, True]


def test_a_restored_weight_is_the_saved_one(base_scores: BaseScores) -> None:
    weight, other = (make_weight(PDU, {"kind": "nll"}) for _ in range(2))
    weight.update(0, 9.0, UNITS, base_scores)

    other.load_state_dict(weight.state_dict())

    assert other.value == weight.value != 10.0


@pytest.mark.parametrize(("retain", "value"), [({"kind": "nll", "weight": 3.0}, 3.0), ({"kind": "none"}, 0.0)])
def test_under_any_other_term_it_is_the_weight_of_the_spec(
    retain: dict[str, object], value: float, base_scores: BaseScores
) -> None:
    weight = make_weight({"kind": "npo"}, retain)

    weight.update(0, 99.0, UNITS, base_scores)

    assert weight.value == value
    assert weight.get_curve() == {}
