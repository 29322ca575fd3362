"""The chosen scale of the curvature: the target is met, and no constant factor changes the step."""

from collections.abc import Callable

import pytest
import torch

from soul_core.optimizers.scale import NUM_SAMPLED_WEIGHTS, choose_gamma
from soul_core.optimizers.sophia import Sophia

Step = Callable[..., torch.Tensor]


@pytest.fixture(scope="module")
def gradients() -> list[torch.Tensor]:
    return list(torch.randn(5, 40, 30, generator=torch.Generator().manual_seed(0)) * 3)


@pytest.fixture(scope="module")
def curvature() -> torch.Tensor:
    """Five orders of magnitude, as in a real model."""
    return 10 ** (5 * torch.rand(40, 30, generator=torch.Generator().manual_seed(1)) - 8)


@pytest.fixture
def take_steps(gradients: list[torch.Tensor], curvature: torch.Tensor) -> Step:
    """Returns the change of the weights over five steps, with gradients and curvature multiplied by constants."""

    def run(*, gradient_factor: float = 1.0, curvature_factor: float = 1.0, target: float = 0.5) -> torch.Tensor:
        weights = torch.nn.Parameter(torch.zeros(40, 30))
        optimizer = Sophia(
            [weights], lr=0.1, beta1=0.9, beta2=0.99, gamma=None, eps=1e-12, weight_decay=0.0, target_unclipped=target
        )
        optimizer.update_curvature([curvature * curvature_factor])
        for gradient in gradients:
            weights.grad = gradient * gradient_factor
            optimizer.step()
        run.optimizer = optimizer  # type: ignore[attr-defined]
        return weights.detach().clone()

    return run


def test_gamma_is_the_quantile_of_momentum_over_curvature() -> None:
    # |m| / h: 1, 2, 4, 8, and infinity for the weight without curvature; a weight at rest does not count
    m, h = torch.tensor([1.0, -4.0, 4.0, 8.0, 5.0, 0.0]), torch.tensor([1.0, 2.0, 1.0, 1.0, 0.0, 1.0])
    assert [choose_gamma([m], [h], target) for target in (0.0, 0.3, 0.5, 0.7, 0.99)] == [1.0, 2.0, 4.0, 8.0, 8.0]


def test_gamma_is_1_before_any_curvature() -> None:
    assert choose_gamma([torch.ones(3)], [torch.zeros(3)], 0.5) == 1.0


@pytest.mark.parametrize("target", [0.3, 0.5, 0.7])
def test_the_target_fraction_of_the_weights_is_unclipped(take_steps: Step, target: float) -> None:
    take_steps(target=target)
    assert take_steps.optimizer.unclipped_fraction == pytest.approx(target, abs=0.01)  # type: ignore[attr-defined]


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_a_scaled_loss_takes_the_same_step(take_steps: Step, factor: float) -> None:
    torch.testing.assert_close(take_steps(gradient_factor=factor), take_steps(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("factor", [1e-9, 1e-3, 1e3])
def test_scaled_curvature_takes_the_same_step(take_steps: Step, factor: float) -> None:
    torch.testing.assert_close(take_steps(curvature_factor=factor), take_steps(), rtol=1e-4, atol=1e-5)


def test_a_sample_of_many_weights_gives_nearly_the_exact_quantile() -> None:
    generator = torch.Generator().manual_seed(0)
    m, h = (torch.rand(3000, 2000, generator=generator) for _ in range(2))
    exact = (m / h).flatten().sort().values[m.numel() // 2]
    assert m.numel() > 5 * NUM_SAMPLED_WEIGHTS
    assert choose_gamma([m], [h], 0.5) == pytest.approx(float(exact), rel=0.01)
