"""How far a value is from a criterion's bound."""

import pytest

from soul_core.pipeline.strategies.criteria_check import compute_shortfall
from soul_core.report import CriterionResult, Verdict
from soul_core.spec import Criterion


def result(value: float | None, **bound: float) -> CriterionResult:
    criterion = Criterion.model_validate({"set": "forget", "metric": "probability", **bound})
    (at,) = bound.values()
    return CriterionResult(criterion=criterion, outcome=Verdict.FAILED, value=value, interval=None, bound=at, reason="")


@pytest.mark.parametrize(
    ("value", "bound", "base", "expected"),
    [
        (0.1, {"at_most": 0.2}, 0.8, 0.0),
        (0.5, {"at_most": 0.2}, 0.8, 0.5),  # half of the way from the base
        (0.8, {"at_most": 0.2}, 0.8, 1.0),
        (0.0, {"at_least": 0.9}, 1.0, 1.0),  # all that the base had is lost
        (0.45, {"at_least": 0.9}, 1.0, 0.5),
        (
            132.0,
            {"at_most": 33.0},
            30.0,
            2 - 1 / 3,
        ),  # a high perplexity does not dominate the others
        (None, {"at_most": 0.2}, 0.8, 1.0),
    ],
)
def test_a_shortfall_is_a_fraction_of_the_way_from_the_base_to_the_bound(
    value: float | None, bound: dict[str, float], base: float, expected: float
) -> None:
    assert compute_shortfall(result(value, **bound), base) == pytest.approx(expected)


def test_a_ruined_model_has_a_larger_shortfall_than_a_nearly_good_one() -> None:
    def total(forget: float, retain: float) -> float:
        return compute_shortfall(result(forget, at_most=0.05), 0.75) + compute_shortfall(
            result(retain, at_least=0.97), 0.99
        )

    assert total(0.149, 0.772) < total(0.0003, 0.0004)
