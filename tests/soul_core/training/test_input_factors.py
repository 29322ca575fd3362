"""The preconditioners of `kfac`: the inverse covariance of the inputs of each layer."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.encoding import Example, encode_rows
from soul_core.data.packing import pack
from soul_core.errors import BadSpec
from soul_core.events import SilentListener
from soul_core.models.loading import LoadedModel, load_model
from soul_core.models.scoring import score
from soul_core.objectives.terms import ExampleGroup
from soul_core.spec.optimizers import Kfac
from soul_core.training.input_factors import load_or_compute_preconditioners
from soul_core.training.micro_batching import MicroBatcher
from tests.fixtures.capitals import COUNTRIES, rows_of

DAMPING = 0.1


@pytest.fixture(name="loaded")
def make_loaded(taught_model_dir: Path) -> LoadedModel:
    torch.set_num_threads(1)
    return load_model(taught_model_dir, device="cpu")


@pytest.fixture
def groups(loaded: LoadedModel) -> dict[ExampleGroup, list[Example]]:
    rows = rows_of(list(COUNTRIES)[3:], start=4)
    return {"retain": encode_rows(rows, loaded.encoder, max_tokens=128), "forget": []}


def compute(
    loaded: LoadedModel, groups: Any, folder: Path, *, max_tokens: int = 4096, parameters: Any = None
) -> dict[str, torch.Tensor | None]:
    names = [name for name, _ in loaded.model.named_parameters()]
    matrices = load_or_compute_preconditioners(
        loaded,
        list(loaded.model.parameters()) if parameters is None else parameters,
        groups,
        Kfac(damping=DAMPING),
        MicroBatcher(max_tokens, SilentListener()),
        folder,
    )
    return dict(zip(names, matrices, strict=False))


def record_inputs(loaded: LoadedModel, groups: Any, layer: str) -> torch.Tensor:
    """Return the inputs of a layer on the retain rows, one row per token."""
    inputs: list[torch.Tensor] = []
    module = loaded.model.get_submodule(layer)
    hook = module.register_forward_pre_hook(lambda _, args: inputs.append(args[0].reshape(-1, args[0].shape[-1])))
    with torch.no_grad():
        score(loaded.model, pack(groups["retain"], loaded.device))
    hook.remove()
    return torch.cat(inputs)


@pytest.mark.parametrize("max_tokens", [4096, 64])
@pytest.mark.parametrize("layer", ["model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"])
def test_a_preconditioner_is_the_inverse_of_the_damped_covariance(
    loaded: LoadedModel, groups: Any, tmp_path: Path, layer: str, max_tokens: int
) -> None:
    matrix = compute(loaded, groups, tmp_path, max_tokens=max_tokens)[f"{layer}.weight"]

    x_ND = record_inputs(loaded, groups, layer)
    covariance = x_ND.T @ x_ND / len(x_ND)
    covariance += DAMPING * covariance.trace() / len(covariance) * torch.eye(len(covariance))
    assert matrix is not None
    torch.testing.assert_close(matrix @ covariance, torch.eye(len(covariance)), rtol=1e-3, atol=2e-3)


def test_embeddings_and_norms_are_held(loaded: LoadedModel, groups: Any, tmp_path: Path) -> None:
    matrices = compute(loaded, groups, tmp_path)

    held = {name for name, matrix in matrices.items() if matrix is None}
    assert held == {name for name, parameter in loaded.model.named_parameters() if "proj" not in name}


def test_a_resumed_run_reads_the_matrices_of_the_first_attempt(
    loaded: LoadedModel, groups: Any, tmp_path: Path
) -> None:
    first = compute(loaded, groups, tmp_path)
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.mul_(2)

    second = compute(loaded, groups, tmp_path)

    for name, matrix in first.items():
        assert (matrix is None) == (second[name] is None)
        assert matrix is None or torch.equal(matrix, second[name])


def test_without_a_linear_layer_the_error_names_the_remedy(loaded: LoadedModel, groups: Any, tmp_path: Path) -> None:
    with pytest.raises(BadSpec, match="select others by `parameters`, or choose another optimizer"):
        compute(loaded, groups, tmp_path, parameters=[loaded.model.get_input_embeddings().weight])
