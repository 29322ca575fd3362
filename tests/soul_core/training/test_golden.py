"""Whole trainings through the engine's own command follow their pinned trajectories.

The tolerance allows for other processors, which round a little differently.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.soul_core.training.golden.make import HERE, SPECS, run_trajectory


@pytest.fixture(autouse=True)
def _restore_signal_handlers() -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", SPECS)
def test_a_training_follows_its_pinned_trajectory(name: str, tmp_path: Path) -> None:
    pinned = json.loads((HERE / f"{name}.json").read_text())

    trajectory = run_trajectory(name, tmp_path)

    assert trajectory.keys() == pinned.keys()
    assert len(pinned["loss"]) == SPECS[name]["training"]["steps"]
    assert pinned["forget_loss"][-1] < pinned["forget_loss"][0]
    for curve, values in pinned.items():
        assert trajectory[curve] == pytest.approx(values, rel=2e-3, abs=2e-3), curve


@pytest.mark.parametrize("name", ["sophia", "adamw"])
def test_thirty_steps_lower_the_forget_loss_by_a_tenth(name: str) -> None:
    pinned = json.loads((HERE / f"{name}.json").read_text())

    assert len(pinned["loss"]) == 30
    assert pinned["forget_loss"][-1] < 0.9 * pinned["forget_loss"][0]
