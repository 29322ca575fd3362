"""Saliency masks: their scores, and that no other weight is trained."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec.wrappers import Saliency
from soul_core.training.micro_batching import BatchUnit
from soul_core.training.saliency import SaliencyMask, _find_threshold, load_or_compute_mask, select_units
from soul_core.training.step import compute_nll_gradients, get_trainable_parameters
from tests.fixtures.capitals_training import batcher, examples_of, train_tiny, weights


@pytest.fixture(scope="module", name="loaded")
def load_taught_model(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


def compute_mask(loaded: LoadedModel, folder: Path, **saliency: Any) -> tuple[SaliencyMask, torch.Tensor]:
    forget, retain = examples_of(loaded)
    groups = {"forget": forget, "retain": retain}
    mask = load_or_compute_mask(loaded, Saliency(**saliency), groups, seed=0, batcher=batcher(), folder=folder)  # type: ignore[arg-type]
    ones = [torch.ones_like(parameter) for parameter in get_trainable_parameters(loaded)]
    mask.apply(ones)
    return mask, torch.cat([tensor.flatten() for tensor in ones]).bool()


def compute_gradient(loaded: LoadedModel, units: list[BatchUnit]) -> torch.Tensor:
    return torch.cat([tensor.flatten() for tensor in compute_nll_gradients(loaded, units, batcher())[0]])


def test_the_fraction_with_the_largest_gradients_is_selected(loaded: LoadedModel, tmp_path: Path) -> None:
    mask, selected = compute_mask(loaded, tmp_path, keep_fraction=0.1)

    forget, _ = examples_of(loaded)
    size = compute_gradient(loaded, select_units("forget", forget, 9, 0)).abs()
    assert mask.trainable_fraction == pytest.approx(0.1, abs=1e-3)
    assert float(size[selected].min()) >= float(size[~selected].max())


@pytest.mark.parametrize("score", ["relative", "wagle"])
def test_the_other_scores_follow_their_formulas(loaded: LoadedModel, tmp_path: Path, score: str) -> None:
    _, selected = compute_mask(loaded, tmp_path, keep_fraction=0.1, score=score, gamma=0.5)

    forget, retain = examples_of(loaded)
    g_f = compute_gradient(loaded, select_units("forget", forget, 9, 0))
    g_r = compute_gradient(loaded, select_units("retain", retain, 9, 0))
    value = g_f.abs() / (g_r.abs() + 1e-12) if score == "relative" else (weights(loaded) * g_f - g_r * g_f / 0.5).abs()
    assert float(value[selected].min()) >= float(value[~selected].max())
    assert float(selected.double().mean()) == pytest.approx(0.1, abs=1e-3)


def test_the_threshold_is_exact_and_never_zero() -> None:
    scores = [torch.tensor([3.0, 0.0, 1e-30]), torch.tensor([[2.0, 0.0], [0.5, 1.0]])]

    assert [_find_threshold(scores, fraction) for fraction in (1 / 7, 2 / 7, 3 / 7, 0.5)] == [3.0, 2.0, 1.0, 0.5]
    assert 0 < _find_threshold(scores, 0.99) <= 1e-30


@pytest.mark.parametrize("optimizer", [{"kind": "sophia", "lr": 1e-3}, {"kind": "adamw", "lr": 1e-3}])
def test_frozen_weights_stay_bit_identical_also_under_weight_decay(
    optimizer: dict[str, Any], loaded: LoadedModel, taught_model_dir: Path, tmp_path: Path
) -> None:
    spec = {
        "saliency": {"keep_fraction": 0.1},
        "optimizer": {**optimizer, "weight_decay": 0.1},
        "retain": {"kind": "kl"},
        "training": {"steps": 3},
    }

    trained, after = train_tiny(taught_model_dir, tmp_path, spec)

    _, selected = compute_mask(loaded, tmp_path / "train")
    changed = weights(after) != weights(loaded)
    assert not (changed & ~selected).any()
    assert float(changed.double().mean()) > 0.09
    if optimizer["kind"] == "sophia":
        assert all(0 <= value <= 1 for value in trained.curves["unclipped_fraction"] if value is not None)


def test_of_a_large_set_max_examples_are_drawn_by_the_seed(loaded: LoadedModel) -> None:
    _, retain = examples_of(loaded)

    units, repeated = (select_units("retain", retain, 3, seed=1) for _ in "ab")

    assert len(units) == 3
    assert units == repeated
