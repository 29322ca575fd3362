"""The selection of trained weights by patterns over their names."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.errors import BadSpec
from soul_core.models.loading import LoadedModel, load_model
from soul_core.spec.wrappers import ParameterSelection
from soul_core.training.selection import select_parameters
from tests.fixtures.capitals_training import train_tiny


def select_names(loaded: LoadedModel, **selection: Any) -> set[str]:
    return select_parameters(loaded.model, ParameterSelection(**selection))


def test_by_default_all_weights_are_selected(loaded: LoadedModel) -> None:
    assert select_names(loaded) == {name for name, _ in loaded.model.named_parameters()}


def test_globs_and_regular_expressions_include_and_exclude(loaded: LoadedModel) -> None:
    selected = select_names(
        loaded, include=("model.layers.[1-9].mlp.*", r"re:model\.norm\.\w+"), exclude=("*gate_proj*",)
    )

    assert selected == {"model.layers.1.mlp.up_proj.weight", "model.layers.1.mlp.down_proj.weight", "model.norm.weight"}


def test_a_tied_weight_matches_by_any_of_its_names(loaded: LoadedModel) -> None:
    assert select_names(loaded, include=("lm_head.weight",)) == {"model.embed_tokens.weight"}
    assert "model.embed_tokens.weight" not in select_names(loaded, exclude=("lm_head.*",))


@pytest.mark.parametrize("place", ["include", "exclude"])
def test_a_pattern_that_matches_nothing_is_refused_with_near_names(loaded: LoadedModel, place: str) -> None:
    wrong = {"include": ("*",), place: ("model.layers.0.self_attn.qproj.weight",)}

    with pytest.raises(
        BadSpec, match=f"parameters.{place}.0: .* matches no weight; similar names: .*self_attn.q_proj.weight"
    ):
        select_names(loaded, **wrong)


def test_an_invalid_regular_expression_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BadSpec, match=r"parameters.include.0: 're:\(' is not a valid regular expression"):
        select_names(loaded, include=("re:(",))


def test_a_selection_of_nothing_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(BadSpec, match="so none is trained; exclude fewer"):
        select_names(loaded, exclude=("*",))


def test_only_selected_weights_change_and_all_are_trainable_afterwards(taught_model_dir: Path, tmp_path: Path) -> None:
    spec = {
        "parameters": {"include": ["*.mlp.down_proj.weight"]},
        "optimizer": {"lr": 1e-3, "weight_decay": 0.1},
        "training": {"steps": 2},
    }
    before = load_model(taught_model_dir, device="cpu").model.state_dict()

    _, after = train_tiny(taught_model_dir, tmp_path, spec)

    changed = {name for name, tensor in after.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"model.layers.{layer}.mlp.down_proj.weight" for layer in (0, 1)}
    assert all(parameter.requires_grad for parameter in after.model.parameters())
