"""Fixtures of the engine's tests."""

from pathlib import Path

import pytest
import torch

from soul_core.models.loading import LoadedModel, load_model


@pytest.fixture(name="loaded")
def load_taught_model(taught_model_dir: Path) -> LoadedModel:
    """A fresh copy of the model that knows capitals; a module with another model defines its own `loaded`."""
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")
