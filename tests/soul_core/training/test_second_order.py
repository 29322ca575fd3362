"""Second derivatives of a Llama small enough for dense matrices, and estimates of their diagonals."""

import pytest
import torch

from soul_core.models.loading import LoadedModel
from soul_core.training.curvature_passes import CURVATURE_ESTIMATORS
from soul_core.training.second_order import gauss_newton_vector_product, hessian_vector_product
from soul_core.training.step import compute_nll_gradients, get_trainable_parameters
from tests.fixtures.tiny_derivatives import batcher, flat, jacobian_PVW, small_llama, unflat, units


@pytest.fixture(scope="module", name="loaded")
def make_small_llama() -> LoadedModel:
    return small_llama()


@pytest.fixture(scope="module")
def gauss_newton_WW(loaded: LoadedModel) -> torch.Tensor:
    """The dense Gauss-Newton matrix: mean over positions of J^T (diag(p) - p p^T) J."""
    jacobian, logits_PV = jacobian_PVW(loaded)
    p_PV = torch.softmax(logits_PV, dim=-1)
    hessian_PVV = torch.diag_embed(p_PV) - p_PV[:, :, None] * p_PV[:, None, :]
    return torch.einsum("pvw,pvu,pux->wx", jacobian, hessian_PVV, jacobian) / len(p_PV)


def draw_vector(loaded: LoadedModel, seed: int = 0) -> torch.Tensor:
    size = sum(parameter.numel() for parameter in get_trainable_parameters(loaded))
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("max_tokens", [2048, 16])  # one micro-batch, and one per example
def test_the_gauss_newton_product_is_the_dense_matrix_times_the_vector(
    loaded: LoadedModel, gauss_newton_WW: torch.Tensor, max_tokens: int
) -> None:
    v = draw_vector(loaded)

    product = flat(gauss_newton_vector_product(loaded, units(), batcher(max_tokens), unflat(loaded, v)))

    expected = gauss_newton_WW @ v
    torch.testing.assert_close(product, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("max_tokens", [2048, 16])
def test_the_hessian_product_is_the_change_of_the_gradient(loaded: LoadedModel, max_tokens: int) -> None:
    v = draw_vector(loaded)
    step, sides = 3e-3, []

    for sign in (1, -1):
        displaced = small_llama()
        with torch.no_grad():
            for parameter, part in zip(get_trainable_parameters(displaced), unflat(displaced, v), strict=True):
                parameter.add_(sign * step * part)
        sides.append(flat(compute_nll_gradients(displaced, units(), batcher())[0]))
    expected = (sides[0] - sides[1]) / (2 * step)

    product = flat(hessian_vector_product(loaded, units(), batcher(max_tokens), unflat(loaded, v)))
    torch.testing.assert_close(product, expected, rtol=0.02, atol=0.01 * float(expected.abs().max()))


def test_both_products_are_symmetric(loaded: LoadedModel) -> None:
    u, v = draw_vector(loaded, 1), draw_vector(loaded, 2)

    for product in (hessian_vector_product, gauss_newton_vector_product):
        product_u, product_v = (flat(product(loaded, units(), batcher(), unflat(loaded, w))) for w in (u, v))
        assert float(v @ product_u) == pytest.approx(float(u @ product_v), rel=1e-3)


def average_estimates(loaded: LoadedModel, kind: str, num_draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of many estimates, and its standard error."""
    generator = torch.Generator().manual_seed(5)
    estimate = CURVATURE_ESTIMATORS[kind]
    estimates = torch.stack([flat(estimate(loaded, units(), batcher(), generator)) for _ in range(num_draws)])
    return estimates.mean(0), estimates.std(0) / num_draws**0.5


def test_the_mean_of_gnb_is_the_diagonal_of_the_dense_matrix(
    loaded: LoadedModel, gauss_newton_WW: torch.Tensor
) -> None:
    mean, error = average_estimates(loaded, "gnb", 400)

    diagonal = gauss_newton_WW.diag()
    assert float(((mean - diagonal).abs() / (error + 1e-9)).max()) < 5
    assert float(mean.sum()) == pytest.approx(float(diagonal.sum()), rel=0.15)


def test_the_mean_of_hutchinson_is_the_hessians_diagonal_of_both_signs(loaded: LoadedModel) -> None:
    size = len(draw_vector(loaded))
    diagonal = torch.stack(
        [
            flat(hessian_vector_product(loaded, units(), batcher(), unflat(loaded, row)))[place]
            for place, row in enumerate(torch.eye(size))
        ]
    )

    mean, error = average_estimates(loaded, "hutchinson", 150)

    assert float(((mean - diagonal).abs() / (error + 1e-9)).max()) < 5
    assert (diagonal < 0).any()
    assert (diagonal > 0).any()


def test_the_empirical_fisher_is_not_the_curvature_where_the_model_is_wrong(
    loaded: LoadedModel, gauss_newton_WW: torch.Tensor
) -> None:
    first, second = (
        flat(CURVATURE_ESTIMATORS["empirical_fisher"](loaded, units(), batcher(), torch.Generator())) for _ in "ab"
    )

    gradients, num_positions = compute_nll_gradients(loaded, units(), batcher())
    assert torch.equal(first, second)
    torch.testing.assert_close(first, num_positions * flat(gradients) ** 2)
    diagonal = gauss_newton_WW.diag()
    assert float((first - diagonal).norm()) > 0.5 * float(diagonal.norm())


@pytest.mark.parametrize("kind", CURVATURE_ESTIMATORS)
def test_splitting_a_batch_changes_no_estimate(loaded: LoadedModel, kind: str) -> None:
    single, split = (
        flat(CURVATURE_ESTIMATORS[kind](loaded, units(), batcher(tokens), torch.Generator().manual_seed(1)))
        for tokens in (2048, 16)
    )

    torch.testing.assert_close(split, single, rtol=1e-3, atol=1e-5 * float(single.abs().max()))


@pytest.mark.parametrize("kind", CURVATURE_ESTIMATORS)
def test_an_estimate_clears_the_gradients(loaded: LoadedModel, kind: str) -> None:
    CURVATURE_ESTIMATORS[kind](loaded, units(), batcher(), torch.Generator().manual_seed(1))

    assert all(parameter.grad is None for parameter in loaded.model.parameters())
