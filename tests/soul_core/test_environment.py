"""Seeds, and the versions that a report names."""

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from soul_core.environment import get_versions, seed_everything


@pytest.fixture(autouse=True)
def _restore_torch_algorithms() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def draw_from_every_generator() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_fixes_every_source_of_randomness() -> None:
    seed_everything(5)
    first = draw_from_every_generator()
    seed_everything(5)
    assert draw_from_every_generator() == first
    seed_everything(6)
    assert all(ours != theirs for ours, theirs in zip(draw_from_every_generator(), first, strict=True))


def test_a_cpu_run_uses_deterministic_algorithms_only() -> None:
    seed_everything(0)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_versions_name_what_can_change_a_number() -> None:
    versions = get_versions()
    assert versions["torch"] == torch.__version__
    assert {"python", "transformers", "numpy", "scipy"} <= versions.keys()
