"""The table of recipes that last: values under attacks, and their ratios to the retrained model's."""

import pytest

from bench.robustness import RECIPE, VARIANTS, make_rows
from bench.steps import StepResult
from soul_core.spec import JobSpec


def make_result(forget: float, attacked: float, **changes: object) -> StepResult:
    """Return the result of a model with four forget rows, of which relearning shows the first."""
    values = {name: [0.9, attacked, attacked, attacked] for name in ("relearn", "quantize_4bit", "downstream")}
    measured = {"forget": [forget] * 4, "unseen": [forget] * 2, "general": [0.5] * 2, "held_out": [1, 2, 3]}
    return {"steps": 12, "cpu_seconds": 34.5, **measured, **values, **changes}


@pytest.fixture
def rows() -> list[list[str | float | None]]:
    results = {
        ("retrained", 0): make_result(0.2, 0.3),
        ("target", 0): make_result(0.9, 0.9),
        ("plain", 1): make_result(0.2, 0.6),
    }
    return list(make_rows(results))


def test_an_attack_is_compared_with_the_same_attack_on_the_retrained_model(
    rows: list[list[str | float | None]],
) -> None:
    assert rows[0][4] == "0.2 → 0.3", "on the rows that relearning does not show"
    assert rows[2][4] == "0.2 → 0.6 (2.00 [2.00, 2.00])"
    assert str(rows[2][5]).startswith("0.2 → 0.675 (1.50 [")


def test_what_is_kept_is_relative_to_the_target(rows: list[list[str | float | None]]) -> None:
    assert rows[2][7:9] == [pytest.approx(0.2 / 0.9), 1.0]


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_every_variant_is_a_valid_spec(variant: dict[str, object]) -> None:
    assert JobSpec.model_validate({**RECIPE, **variant})
