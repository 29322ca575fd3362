"""`robust: true` sets what makes forgetting last, unless the spec has a value of its own."""

from typing import Any

import pytest

from soul_core.spec import JobSpec
from soul_core.spec.wrappers import ROBUST_DEFAULTS


def expand(**content: Any) -> dict[str, Any]:
    return JobSpec.model_validate({"robust": True, **content}).model_dump()


def test_robust_sets_the_measured_combination() -> None:
    expanded, plain = expand(), JobSpec.model_validate(ROBUST_DEFAULTS).model_dump()

    assert expanded == {**plain, "robust": True}
    assert expanded != {**JobSpec().model_dump(), "robust": True}


def test_without_it_nothing_changes() -> None:
    assert JobSpec(robust=False) == JobSpec()


@pytest.mark.parametrize("name", ROBUST_DEFAULTS)
def test_values_of_the_spec_win(name: str) -> None:
    plain = JobSpec().model_dump()

    assert expand(**{name: plain[name]})[name] == plain[name]


def test_an_expanded_spec_is_read_back_unchanged() -> None:
    spec = JobSpec.model_validate({"robust": True, "data": {"normalize": True}})

    assert JobSpec.model_validate(spec.model_dump()) == spec
    assert spec.data.normalize


def test_members_of_an_ensemble_inherit_it() -> None:
    spec = JobSpec.model_validate({"robust": True, "strategy": {"kind": "ensemble", "members": [{}, {"seed": 1}]}})

    assert [member.sharpness for member in spec.get_recipes().values()] == [spec.sharpness, spec.sharpness]
