"""Gauss-Newton-Bartlett: its mean is the analytic diagonal, and its labels are sampled."""

import torch
from torch.nn.functional import cross_entropy, one_hot

from soul_core.optimizers.curvature import gauss_newton_bartlett, sample_labels

UPSTREAM_SCALE = 5120  # the released code's factor, whatever the batch


def softmax_regression(num_positions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs (N, D), weights (V, D) and the analytic Gauss-Newton diagonal of the mean cross-entropy."""
    generator = torch.Generator().manual_seed(1)
    x_ND = torch.randn(num_positions, 3, generator=generator, dtype=torch.float64)
    w_VD = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    p_NV = torch.softmax(x_ND @ w_VD.T, dim=-1)
    return x_ND, w_VD, torch.einsum("nv,nd->vd", p_NV * (1 - p_NV), x_ND**2) / num_positions


def draw_estimates(num_draws: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (estimates, analytic diagonal)."""
    x_ND, w_VD, analytic_VD = softmax_regression(num_positions)
    generator = torch.Generator().manual_seed(2)
    estimates = []
    for _ in range(num_draws):
        w = w_VD.clone().requires_grad_()
        logits_NV = x_ND @ w.T
        labels_N = sample_labels(logits_NV, torch.rand(num_positions, generator=generator, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(cross_entropy(logits_NV, labels_N), w)
        estimates.append(gauss_newton_bartlett([gradient], num_positions)[0].double())
    return torch.stack(estimates), analytic_VD


def test_its_mean_is_the_analytic_diagonal_of_softmax_regression() -> None:
    estimates, analytic_VD = draw_estimates(4000, num_positions=8)

    standard_error = estimates.std(0) / len(estimates) ** 0.5
    assert ((estimates.mean(0) - analytic_VD).abs() < 4.5 * standard_error).all()


def test_the_scale_is_the_number_of_positions_not_a_constant() -> None:
    for num_positions in (2, 32):
        estimates, analytic_VD = draw_estimates(1500, num_positions)
        ratio = float((estimates.mean(0) / analytic_VD).median())
        assert 0.85 < ratio < 1.15
        assert ratio * UPSTREAM_SCALE / num_positions > 100, "upstream's constant gives another scale"


def test_it_is_never_negative() -> None:
    estimates, _ = draw_estimates(50, num_positions=4)

    assert (estimates >= 0).all()


def test_labels_follow_the_models_own_softmax() -> None:
    logits_1V = torch.tensor([[0.0, 1.0, 2.0, -3.0]])
    uniform_P = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    labels_P = sample_labels(logits_1V.expand(len(uniform_P), -1), uniform_P)

    frequency_V = one_hot(labels_P, 4).double().mean(0)
    torch.testing.assert_close(frequency_V, torch.softmax(logits_1V[0].double(), 0), atol=0.01, rtol=0)


def test_splitting_a_batch_changes_no_label() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_PV = torch.randn(30, 50, generator=generator)
    uniform_P = torch.rand(30, generator=generator, dtype=torch.float64)

    together = sample_labels(logits_PV, uniform_P)
    parts = [sample_labels(logits_PV[a:b], uniform_P[a:b]) for a, b in ((0, 7), (7, 8), (8, 30))]

    assert torch.equal(together, torch.cat(parts))


def test_the_ends_of_the_unit_interval_give_the_first_and_last_label() -> None:
    logits_PV = torch.zeros(2, 5)

    labels_P = sample_labels(logits_PV, torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64))

    assert labels_P.tolist() == [0, 4]
