"""Thirty steps through the engine's own command take the pinned way; other processors round a little differently."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soul_core.training.golden.make import HERE, SPECS, trajectory


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", SPECS)
def test_thirty_steps_take_the_pinned_way(name: str, tmp_path: Path) -> None:
    pinned = json.loads((HERE / f"{name}.json").read_text())

    found = trajectory(name, tmp_path)

    assert found.keys() == pinned.keys()
    assert len(pinned["loss"]) == 30
    assert pinned["forget_loss"][-1] < 0.9 * pinned["forget_loss"][0]
    for curve, values in pinned.items():
        assert found[curve] == pytest.approx(values, rel=2e-3, abs=2e-3), curve
