"""Sophia and the released code's update, worked out by hand."""

import pytest
import torch
from torch.optim import Optimizer

from soul_core.optimizers.sophia import Sophia
from soul_core.optimizers.upstream import UpstreamCompat

HYPER = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "gamma": 0.5, "eps": 1e-12, "weight_decay": 0.0}


def parameter(*values: float, dtype: torch.dtype = torch.float32) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=dtype))


def sophia(theta: torch.nn.Parameter, **changed: float) -> Sophia:
    return Sophia([theta], **{**HYPER, **changed})


def step(optimizer: Optimizer, theta: torch.nn.Parameter, *gradient: float) -> None:
    theta.grad = torch.tensor(gradient, dtype=theta.dtype)
    optimizer.step()


def test_a_sophia_step_is_the_one_worked_out_by_hand() -> None:
    theta = parameter(1.0, 1.0, 1.0)
    optimizer = sophia(theta, weight_decay=0.01)
    optimizer.update_curvature([torch.tensor([1.0, 0.1, 0.0])])

    step(optimizer, theta, 1.0, 1.0, -1.0)

    # m = 0.1 g; divided by gamma h = 0.5, 0.05, eps -> 0.2 unclipped, 2 and -1e11 clipped; decay 1 - 0.1 * 0.01
    expected = torch.tensor([0.999 - 0.1 * 0.2, 0.999 - 0.1 * 1.0, 0.999 + 0.1 * 1.0])
    torch.testing.assert_close(theta.data, expected)
    assert optimizer.unclipped_fraction == pytest.approx(1 / 3)


def test_momentum_is_averaged_once_per_step() -> None:
    # Upstream averages twice, so its 0.9 acts as 0.81.
    theta = parameter(0.0)
    optimizer = sophia(theta)
    optimizer.update_curvature([torch.tensor([1e6])])

    for _ in range(3):
        step(optimizer, theta, 1.0)

    torch.testing.assert_close(optimizer.state[theta]["m"], torch.tensor([1 - 0.9**3]))


def test_without_curvature_every_step_is_a_sign_step() -> None:
    theta = parameter(0.0, 0.0)
    optimizer = sophia(theta)

    step(optimizer, theta, 1e-4, -3.0)

    torch.testing.assert_close(theta.data, torch.tensor([-0.1, 0.1]))
    assert optimizer.unclipped_fraction == 0


def test_weights_without_curvature_count_as_clipped() -> None:
    # Rows of an embedding that no example uses: no gradient, no curvature, no step.
    theta = parameter(1.0, 1.0, 1.0, 1.0)
    optimizer = sophia(theta)
    optimizer.update_curvature([torch.tensor([1.0, 0.0, 0.0, 0.0])])

    step(optimizer, theta, 1.0, 0.0, 0.0, 0.0)

    assert optimizer.unclipped_fraction == 0.25
    torch.testing.assert_close(theta.data, torch.tensor([1 - 0.1 * 0.1 / 0.5, 1, 1, 1]))


def test_h_is_the_papers_running_average_divided_by_its_weights() -> None:
    theta = parameter(0.0)
    optimizer = sophia(theta)
    running, weight = 0.0, 0.0

    for value in (4.0, 8.0, 1.0, 7.0):
        optimizer.update_curvature([torch.tensor([value])])
        running, weight = 0.99 * running + 0.01 * value, 0.99 * weight + 0.01  # algorithm 3, from zero
        assert float(optimizer.state[theta]["h"]) == pytest.approx(running / weight)

    assert float(optimizer.state[theta]["h"]) == pytest.approx(5.0, abs=0.02)  # nearly their plain mean


def test_after_many_estimates_h_is_the_papers_running_average() -> None:
    theta = parameter(0.0)
    optimizer = sophia(theta)
    for _ in range(1500):
        optimizer.update_curvature([torch.tensor([1.0])])

    optimizer.update_curvature([torch.tensor([2.0])])

    assert float(optimizer.state[theta]["h"]) == pytest.approx(0.99 * 1 + 0.01 * 2, rel=1e-5)


def test_a_step_too_small_for_bfloat16_still_adds_up() -> None:
    # Upstream keeps weights in bfloat16 alone: at lr 5e-6 a weight of 1 can never move.
    theta = parameter(1.0, dtype=torch.bfloat16)
    lost = theta.data - torch.tensor([5e-6], dtype=torch.bfloat16)
    assert float(lost) == 1.0, "the step is lost without a master"
    optimizer = sophia(theta, lr=5e-6)

    for _ in range(1000):
        step(optimizer, theta, 1.0)

    assert theta.dtype == torch.bfloat16
    assert float(theta.detach()) == pytest.approx(1 - 1000 * 5e-6, abs=4e-3)


def test_bfloat16_weights_with_a_float32_master_track_float32() -> None:
    # Softmax regression on fixed data. Without a master most of its small steps are lost.
    generator = torch.Generator().manual_seed(0)
    x_ND, label_N = torch.randn(64, 8, generator=generator), torch.randint(0, 5, (64,), generator=generator)
    losses = {}
    for dtype in (torch.float32, torch.bfloat16):
        w_VD = torch.nn.Parameter(torch.zeros(5, 8, dtype=dtype))
        optimizer = sophia(w_VD, lr=2e-4, gamma=1.0)
        curve = []
        for _ in range(400):
            loss = torch.nn.functional.cross_entropy(x_ND @ w_VD.float().T, label_N)
            curve.append(loss.item())
            w_VD.grad = torch.autograd.grad(loss, w_VD)[0]
            optimizer.step()
        losses[dtype] = torch.tensor(curve)

    torch.testing.assert_close(losses[torch.bfloat16], losses[torch.float32], rtol=2e-3, atol=0)
    assert losses[torch.float32][-1] < 0.99 * losses[torch.float32][0]


def upstream(theta: torch.nn.Parameter, dtype: torch.dtype = torch.float32, **changed: float) -> UpstreamCompat:
    hyper = {"lr": 0.1, "beta1": 0.9, "beta2": 0.95, "rho": 0.04, "weight_decay": 0.0}
    return UpstreamCompat([theta], **{**hyper, **changed}, weights_dtype=dtype)


def test_an_upstream_step_is_the_one_worked_out_by_hand() -> None:
    theta = parameter(1.0, 1.0, 1.0)
    optimizer = upstream(theta)

    step(optimizer, theta, 1.0, 0.01, -0.01)

    # m = (1 - 0.81) g; h = 0.05 g^2; m / (0.04 * 5120 h): 0.19 / 10.24 for the first, 1.855 for the others: clipped
    torch.testing.assert_close(theta.data, torch.tensor([1 - 0.1 * 0.19 / 10.24, 1 - 0.1, 1 + 0.1]))
    assert optimizer.unclipped_fraction == pytest.approx(1 / 3)


def test_upstream_squares_every_gradient_and_averages_momentum_twice() -> None:
    theta = parameter(0.0)
    optimizer = upstream(theta)

    for _ in range(3):
        step(optimizer, theta, 2.0)

    state = optimizer.state[theta]
    torch.testing.assert_close(state["m"], torch.tensor([2 * (1 - 0.81**3)]))
    torch.testing.assert_close(state["h"], torch.tensor([4 * (1 - 0.95**3)]))


def test_upstream_decays_matrices_only_and_before_the_step() -> None:
    matrix, norm = torch.nn.Parameter(torch.ones(1, 1)), parameter(1.0)
    optimizer = UpstreamCompat(
        [matrix, norm], lr=0.1, beta1=0.9, beta2=0.95, rho=0.04, weight_decay=0.5, weights_dtype=torch.float32
    )
    matrix.grad, norm.grad = torch.zeros(1, 1), torch.zeros(1)

    optimizer.step()

    assert matrix.item() == pytest.approx(0.95)
    assert norm.item() == 1.0


def test_upstream_in_bfloat16_equals_the_same_sums_on_bfloat16_tensors_bit_for_bit() -> None:
    start = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    gradients = torch.randn(5, 4, 8, generator=torch.Generator().manual_seed(1)) * 1e-2
    theta = torch.nn.Parameter(start.clone())  # in float32, as the engine's weights are
    optimizer = upstream(theta, torch.bfloat16, lr=1e-2, weight_decay=0.1)
    w = start.bfloat16()
    m, h = torch.zeros_like(w), torch.zeros_like(w)

    for gradient in gradients:
        theta.grad = gradient.clone()
        optimizer.step()
        g = gradient.bfloat16()
        h = (h * 0.95).addcmul(g, g, value=1 - 0.95)
        m = (m * 0.9).add(g, alpha=1 - 0.9)
        w = w * (1 - 1e-2 * 0.1)
        m = (m * 0.9).add(g, alpha=1 - 0.9)
        w = w.addcmul(m.sign(), (m.abs() / (0.04 * 5120 * h + 1e-15)).clamp(max=1), value=-1e-2)

    assert torch.equal(theta.detach(), w.float())


def test_upstream_in_bfloat16_loses_small_steps() -> None:
    theta = parameter(1.0)
    optimizer = upstream(theta, torch.bfloat16, lr=5e-6)

    for _ in range(100):
        step(optimizer, theta, 1e-6)  # so small that every step is clipped to lr

    assert theta.item() == 1.0


def test_a_weight_with_negative_curvature_takes_a_full_step_and_counts_as_clipped() -> None:
    # Hutchinson's estimate may be negative; max(gamma h, eps) is the paper's answer.
    theta = parameter(1.0, 1.0)
    optimizer = sophia(theta)
    optimizer.update_curvature([torch.tensor([-5.0, 5.0])])

    step(optimizer, theta, 1.0, 1.0)

    torch.testing.assert_close(theta.data, torch.tensor([0.9, 1 - 0.1 * 0.1 / 2.5]))
    assert optimizer.unclipped_fraction == 0.5
