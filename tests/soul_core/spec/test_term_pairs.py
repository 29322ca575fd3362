"""Which terms go together, and why others do not."""

import pytest

from soul_core.objectives import FORGET_TERMS, RETAIN_TERMS
from soul_core.spec import JobSpec
from soul_core.spec.checks import find_spec_problems
from soul_core.spec.term_pairs import find_term_pair_problem

REFUSED = {(forget, "rmu_retain") for forget in FORGET_TERMS if forget != "rmu"} | {("pdu", "none")}


@pytest.mark.parametrize("forget", FORGET_TERMS)
@pytest.mark.parametrize("retain", [*RETAIN_TERMS, "none"])
def test_any_forget_term_goes_with_any_retain_term_unless_there_is_a_reason(forget: str, retain: str) -> None:
    assert (find_term_pair_problem(forget, retain) is not None) == ((forget, retain) in REFUSED)


@pytest.mark.parametrize(
    ("forget", "retain", "why"),
    [("npo", "rmu_retain", "hidden states that forget.kind 'rmu' steers"), ("pdu", "none", "under a bound")],
)
def test_a_refused_pair_is_pointed_at_and_says_why(forget: str, retain: str, why: str) -> None:
    spec = JobSpec.model_validate({"forget": {"kind": forget}, "retain": {"kind": retain}})

    problems = dict(find_spec_problems(spec, {"forget", "retain"}))

    assert why in problems["retain.kind"]
    assert "use 'nll' or 'kl'" in problems["retain.kind"]
