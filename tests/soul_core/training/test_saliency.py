"""The weights that matter for the forget set, and nothing else moves."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec.wrappers import Saliency
from soul_core.training.micro_batching import BatchUnit
from soul_core.training.saliency import SaliencyMask, _lowest_kept, load_or_compute_mask, select_units
from soul_core.training.step import compute_nll_gradients, get_trainable_parameters
from tests.fixtures.capitals_training import batcher, examples_of, train_tiny, weights


@pytest.fixture(scope="module")
def loaded_model(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


def mask_of(loaded_model: LoadedModel, folder: Path, **saliency: Any) -> tuple[SaliencyMask, torch.Tensor]:
    forget, retain = examples_of(loaded_model)
    groups = {"forget": forget, "retain": retain}
    mask = load_or_compute_mask(loaded_model, Saliency(**saliency), groups, seed=0, batcher=batcher(), folder=folder)  # type: ignore[arg-type]
    ones = [torch.ones_like(parameter) for parameter in get_trainable_parameters(loaded_model)]
    mask.apply(ones)
    return mask, torch.cat([entry.flatten() for entry in ones]).bool()


def gradient(loaded_model: LoadedModel, units: list[BatchUnit]) -> torch.Tensor:
    return torch.cat([entry.flatten() for entry in compute_nll_gradients(loaded_model, units, batcher())[0]])


def test_it_keeps_the_share_with_the_largest_gradients(loaded_model: LoadedModel, tmp_path: Path) -> None:
    mask, remaining = mask_of(loaded_model, tmp_path, keep_fraction=0.1)

    forget, _ = examples_of(loaded_model)
    size = gradient(loaded_model, select_units("forget", forget, 9, 0)).abs()
    assert mask.trainable_fraction == pytest.approx(0.1, abs=1e-3)
    assert float(size[remaining].min()) >= float(size[~remaining].max())


@pytest.mark.parametrize("score", ["relative", "wagle"])
def test_the_other_scores_are_their_formulas(loaded_model: LoadedModel, tmp_path: Path, score: str) -> None:
    _, remaining = mask_of(loaded_model, tmp_path, keep_fraction=0.1, score=score, gamma=0.5)

    forget, retain = examples_of(loaded_model)
    g_f = gradient(loaded_model, select_units("forget", forget, 9, 0))
    g_r = gradient(loaded_model, select_units("retain", retain, 9, 0))
    value = (
        g_f.abs() / (g_r.abs() + 1e-12)
        if score == "relative"
        else (weights(loaded_model) * g_f - g_r * g_f / 0.5).abs()
    )
    assert float(value[remaining].min()) >= float(value[~remaining].max())
    assert float(remaining.double().mean()) == pytest.approx(0.1, abs=1e-3)


def test_the_lowest_score_kept_is_exact_and_never_zero() -> None:
    scores = [torch.tensor([3.0, 0.0, 1e-30]), torch.tensor([[2.0, 0.0], [0.5, 1.0]])]

    assert [_lowest_kept(scores, share) for share in (1 / 7, 2 / 7, 3 / 7, 0.5)] == [3.0, 2.0, 1.0, 0.5]
    assert 0 < _lowest_kept(scores, 0.99) <= 1e-30


@pytest.mark.parametrize("optimizer", [{"kind": "sophia", "lr": 1e-3}, {"kind": "adamw", "lr": 1e-3}])
def test_the_others_stay_to_the_bit_whatever_decays(
    optimizer: dict[str, Any], loaded_model: LoadedModel, taught_model_dir: Path, tmp_path: Path
) -> None:
    spec = {
        "saliency": {"keep_fraction": 0.1},
        "optimizer": {**optimizer, "weight_decay": 0.1},
        "retain": {"kind": "kl"},
        "training": {"steps": 3},
    }

    trained, after = train_tiny(taught_model_dir, tmp_path, spec)

    _, remaining = mask_of(loaded_model, tmp_path / "train")
    moved = weights(after) != weights(loaded_model)
    assert not (moved & ~remaining).any()
    assert float(moved.double().mean()) > 0.09
    if optimizer["kind"] == "sophia":
        assert all(0 <= value <= 1 for value in trained.curves["unclipped_fraction"] if value is not None)


def test_of_a_large_set_it_looks_at_as_many_examples_as_asked(loaded_model: LoadedModel) -> None:
    _, retain = examples_of(loaded_model)

    chosen, again = (select_units("retain", retain, 3, seed=1) for _ in "ab")

    assert len(chosen) == 3
    assert chosen == again
