"""A small run of `bench.chaos`: twenty seeded kills of all processes during jobs and uploads."""

import pytest

from bench.chaos import ChaosPlan, run_chaos


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_twenty_kills_lose_double_and_change_nothing(engine_environment: dict[str, str]) -> None:
    outcome = run_chaos(ChaosPlan(kills=20, jobs=4, seed=3, fill_disk=False), environment=engine_environment)

    # an upload that is cut by a kill leaves its part until the API cleans up
    outcome["left"]["scratch"] = [name for name in outcome["left"]["scratch"] if not name.startswith("uploads/")]
    assert sum(outcome["kills"].values()) == 20
    jobs = outcome["jobs"]
    assert (jobs["lost"], jobs["doubled"], jobs["different"], jobs["not_succeeded"]) == ([], [], [], {})
    assert (jobs["events_with_gaps"], jobs["without_exactly_one_end"]) == ([], [])
    assert outcome["uploads"]["lost"] == []
    assert {name: names for name, names in outcome["left"].items() if names} == {}
