"""Which weights move, by patterns over their names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.errors import BadSpec
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec.wrappers import ParameterSelection
from soul_core.training.selection import select_parameters
from tests.fixtures.capitals_training import train_tiny


@pytest.fixture
def loaded_model(taught_model_dir: Path) -> LoadedModel:
    return load_model(taught_model_dir, device="cpu")


def names(loaded_model: LoadedModel, **selection: Any) -> set[str]:
    return select_parameters(loaded_model.model, ParameterSelection(**selection))


def test_by_default_everything_moves(loaded_model: LoadedModel) -> None:
    assert names(loaded_model) == {name for name, _ in loaded_model.model.named_parameters()}


def test_globs_and_regular_expressions_choose_and_exceptions_take_away(loaded_model: LoadedModel) -> None:
    chosen = names(loaded_model, include=("model.layers.[1-9].mlp.*", r"re:model\.norm\.\w+"), exclude=("*gate_proj*",))

    assert chosen == {"model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"}


def test_a_tied_weight_is_meant_by_any_of_its_names(loaded_model: LoadedModel) -> None:
    assert names(loaded_model, include=("lm_head.weight",)) == {"model.embed_tokens.weight"}
    assert "model.embed_tokens.weight" not in names(loaded_model, exclude=("lm_head.*",))


@pytest.mark.parametrize("place", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_with_near_names(loaded_model: LoadedModel, place: str) -> None:
    wrong = {"include": ("*",), place: ("model.layers.0.self_attn.qproj.weight",)}

    with pytest.raises(BadSpec, match=f"parameters.{place}.0: .* matches no weight; near: .*self_attn.q_proj.weight"):
        names(loaded_model, **wrong)


def test_a_regular_expression_that_is_none_is_refused(loaded_model: LoadedModel) -> None:
    with pytest.raises(BadSpec, match=r"parameters.include.0: 're:\(' is not a regular expression"):
        names(loaded_model, include=("re:(",))


def test_a_selection_of_nothing_is_refused(loaded_model: LoadedModel) -> None:
    with pytest.raises(BadSpec, match="nothing could move"):
        names(loaded_model, exclude=("*",))


def test_only_what_is_chosen_moves_and_afterwards_all_may_again(taught_model_dir: Path, tmp_path: Path) -> None:
    spec = {
        "parameters": {"include": ["*.mlp.down_proj.weight"]},
        "optimizer": {"lr": 1e-3, "weight_decay": 0.1},
        "training": {"steps": 2},
    }
    before = load_model(taught_model_dir, device="cpu").model.state_dict()

    _, after = train_tiny(taught_model_dir, tmp_path, spec)

    moved = {name for name, tensor in after.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert moved == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    assert all(parameter.requires_grad for parameter in after.model.parameters())
