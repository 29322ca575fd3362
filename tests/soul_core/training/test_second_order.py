"""Second derivatives on a Llama so small that they can be written out, and the diagonals estimated of them."""

import pytest
import torch

from soul_core.models.loading import LoadedModel
from soul_core.training.curvature_passes import CURVATURE_ESTIMATORS
from soul_core.training.second_order import gauss_newton_vector_product, hessian_vector_product
from soul_core.training.step import compute_nll_gradients, get_trainable_parameters
from tests.fixtures.tiny_derivatives import batcher, flat, jacobian_PVW, small_llama, unflat, units


@pytest.fixture(scope="module")
def loaded_model() -> LoadedModel:
    return small_llama()


@pytest.fixture(scope="module")
def gauss_newton_WW(loaded_model: LoadedModel) -> torch.Tensor:
    """The Gauss-Newton matrix written out: mean over positions of J^T (diag(p) - p p^T) J."""
    jacobian, logits_PV = jacobian_PVW(loaded_model)
    p_PV = torch.softmax(logits_PV, dim=-1)
    bend_PVV = torch.diag_embed(p_PV) - p_PV[:, :, None] * p_PV[:, None, :]
    return torch.einsum("pvw,pvu,pux->wx", jacobian, bend_PVV, jacobian) / len(p_PV)


def vector(loaded_model: LoadedModel, seed: int = 0) -> torch.Tensor:
    size = sum(parameter.numel() for parameter in get_trainable_parameters(loaded_model))
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("max_tokens", [2048, 16])  # one micro-batch, one an example
def test_the_gauss_newton_product_is_the_written_out_matrix_times_the_vector(
    loaded_model: LoadedModel, gauss_newton_WW: torch.Tensor, max_tokens: int
) -> None:
    v = vector(loaded_model)

    result = flat(gauss_newton_vector_product(loaded_model, units(), batcher(max_tokens), unflat(loaded_model, v)))

    expected = gauss_newton_WW @ v
    torch.testing.assert_close(result, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("max_tokens", [2048, 16])
def test_the_hessian_product_is_the_change_of_the_gradient(loaded_model: LoadedModel, max_tokens: int) -> None:
    v = vector(loaded_model)
    step, sides = 3e-3, []

    for sign in (1, -1):
        moved = small_llama()
        with torch.no_grad():
            for parameter, part in zip(get_trainable_parameters(moved), unflat(moved, v), strict=True):
                parameter.add_(sign * step * part)
        sides.append(flat(compute_nll_gradients(moved, units(), batcher())[0]))
    expected = (sides[0] - sides[1]) / (2 * step)

    result = flat(hessian_vector_product(loaded_model, units(), batcher(max_tokens), unflat(loaded_model, v)))
    torch.testing.assert_close(result, expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))


def test_both_products_are_symmetric(loaded_model: LoadedModel) -> None:
    u, v = vector(loaded_model, 1), vector(loaded_model, 2)

    for product in (hessian_vector_product, gauss_newton_vector_product):
        entry, other = (
            flat(product(loaded_model, units(), batcher(), unflat(loaded_model, entry))) for entry in (u, v)
        )
        assert float(v @ entry) == pytest.approx(float(u @ other), rel=1e-3)


def mean_estimate(loaded_model: LoadedModel, kind: str, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of many estimates, and its standard error."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.stack(
        [flat(CURVATURE_ESTIMATORS[kind](loaded_model, units(), batcher(), generator)) for _ in range(draws)]
    )
    return drawn.mean(0), drawn.std(0) / draws**0.5


def test_the_mean_of_gnb_is_the_diagonal_of_the_written_out_matrix(
    loaded_model: LoadedModel, gauss_newton_WW: torch.Tensor
) -> None:
    mean, error = mean_estimate(loaded_model, "gnb", 400)

    diagonal = gauss_newton_WW.diag()
    assert float(((mean - diagonal).abs() / (error + 1e-9)).max()) < 5
    assert float(mean.sum()) == pytest.approx(float(diagonal.sum()), rel=0.15)


def test_the_mean_of_hutchinson_is_the_diagonal_of_the_hessian_which_has_both_signs(loaded_model: LoadedModel) -> None:
    size = len(vector(loaded_model))
    diagonal = torch.stack(
        [
            flat(hessian_vector_product(loaded_model, units(), batcher(), unflat(loaded_model, row)))[place]
            for place, row in enumerate(torch.eye(size))
        ]
    )

    mean, error = mean_estimate(loaded_model, "hutchinson", 150)

    assert float(((mean - diagonal).abs() / (error + 1e-9)).max()) < 5
    assert (diagonal < 0).any()
    assert (diagonal > 0).any()


def test_the_empirical_fisher_is_no_sample_of_the_curvature_where_the_model_is_wrong(
    loaded_model: LoadedModel, gauss_newton_WW: torch.Tensor
) -> None:
    once, again = (
        flat(CURVATURE_ESTIMATORS["empirical_fisher"](loaded_model, units(), batcher(), torch.Generator()))
        for _ in "ab"
    )

    gradients, num_positions = compute_nll_gradients(loaded_model, units(), batcher())
    assert torch.equal(once, again)
    torch.testing.assert_close(once, num_positions * flat(gradients) ** 2)
    diagonal = gauss_newton_WW.diag()
    assert float((once - diagonal).norm()) > 0.5 * float(diagonal.norm())


@pytest.mark.parametrize("kind", CURVATURE_ESTIMATORS)
def test_splitting_a_batch_changes_no_estimate(loaded_model: LoadedModel, kind: str) -> None:
    whole, split = (
        flat(CURVATURE_ESTIMATORS[kind](loaded_model, units(), batcher(tokens), torch.Generator().manual_seed(1)))
        for tokens in (2048, 16)
    )

    torch.testing.assert_close(split, whole, rtol=1e-3, atol=1e-5 * float(whole.abs().max()))


@pytest.mark.parametrize("kind", CURVATURE_ESTIMATORS)
def test_an_estimate_leaves_no_gradient_behind(loaded_model: LoadedModel, kind: str) -> None:
    CURVATURE_ESTIMATORS[kind](loaded_model, units(), batcher(), torch.Generator().manual_seed(1))

    assert all(parameter.grad is None for parameter in loaded_model.model.parameters())
