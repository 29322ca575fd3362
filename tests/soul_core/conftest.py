"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest

from tests.fixtures.capitals import make_taught_model


@pytest.fixture(scope="session")
def taught_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that knows the ten capitals of `bench.capitals`."""
    return make_taught_model(tmp_path_factory.mktemp("taught"))
