import hashlib
import random

import numpy as np
import pytest
import torch

from soul_core.environment import seed_everything, sha256_of, versions


@pytest.fixture(autouse=True)
def _leave_torch_as_it_was():
    yield
    torch.use_deterministic_algorithms(False)


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_a_seed_fixes_every_source_of_randomness():
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(ours != theirs for ours, theirs in zip(draw(), first, strict=True))


def test_a_cpu_run_uses_deterministic_algorithms_only():
    seed_everything(0)
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()


def test_versions_name_what_can_change_a_number():
    assert versions()["torch"] == torch.__version__
    assert {"python", "transformers", "numpy"} <= versions().keys()


def test_a_file_is_hashed_whole(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()
