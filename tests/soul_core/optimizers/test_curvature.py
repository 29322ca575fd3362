"""Gauss-Newton-Bartlett: the diagonal it estimates is the analytic one, and its labels are sampled."""

import torch
from torch.nn.functional import cross_entropy, one_hot

from soul_core.optimizers.curvature import gauss_newton_bartlett, sample_labels

UPSTREAM_SCALE = 5120  # what the released code multiplies by, whatever the batch


def softmax_regression(num_positions: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs (N, D), weights (V, D) and the analytic Gauss-Newton diagonal of the mean cross-entropy."""
    generator = torch.Generator().manual_seed(1)
    x_ND = torch.randn(num_positions, 3, generator=generator, dtype=torch.float64)
    w_VD = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    p_NV = torch.softmax(x_ND @ w_VD.T, dim=-1)
    return x_ND, w_VD, torch.einsum("nv,nd->vd", p_NV * (1 - p_NV), x_ND**2) / num_positions


def estimates(num_draws: int, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (estimates, analytic diagonal)."""
    x_ND, w_VD, analytic_VD = softmax_regression(num_positions)
    generator = torch.Generator().manual_seed(2)
    drawn = []
    for _ in range(num_draws):
        w = w_VD.clone().requires_grad_()
        logits_NV = x_ND @ w.T
        labels_N = sample_labels(logits_NV, torch.rand(num_positions, generator=generator, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(cross_entropy(logits_NV, labels_N), w)
        drawn.append(gauss_newton_bartlett([gradient], num_positions)[0].double())
    return torch.stack(drawn), analytic_VD


def test_its_mean_is_the_analytic_diagonal_of_softmax_regression() -> None:
    drawn, analytic_VD = estimates(4000, num_positions=8)

    standard_error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - analytic_VD).abs() < 4.5 * standard_error).all()


def test_the_scale_is_the_number_of_positions_not_a_constant() -> None:
    for num_positions in (2, 32):
        drawn, analytic_VD = estimates(1500, num_positions)
        ratio = float((drawn.mean(0) / analytic_VD).median())
        assert 0.85 < ratio < 1.15
        assert ratio * UPSTREAM_SCALE / num_positions > 100, "with upstream's constant it would be far off"


def test_it_is_never_negative() -> None:
    drawn, _ = estimates(50, num_positions=4)

    assert (drawn >= 0).all()


def test_labels_follow_the_models_own_softmax() -> None:
    logits_1V = torch.tensor([[0.0, 1.0, 2.0, -3.0]])
    uniform_P = torch.rand(40_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    labels_P = sample_labels(logits_1V.expand(len(uniform_P), -1), uniform_P)

    found_V = one_hot(labels_P, 4).double().mean(0)
    torch.testing.assert_close(found_V, torch.softmax(logits_1V[0].double(), 0), atol=0.01, rtol=0)


def test_splitting_a_batch_changes_no_draw() -> None:
    generator = torch.Generator().manual_seed(0)
    logits_PV = torch.randn(30, 50, generator=generator)
    uniform_P = torch.rand(30, generator=generator, dtype=torch.float64)

    whole = sample_labels(logits_PV, uniform_P)
    parts = [sample_labels(logits_PV[a:b], uniform_P[a:b]) for a, b in ((0, 7), (7, 8), (8, 30))]

    assert torch.equal(whole, torch.cat(parts))


def test_the_edges_of_the_unit_interval_are_labels_too() -> None:
    logits_PV = torch.zeros(2, 5)

    labels_P = sample_labels(logits_PV, torch.tensor([0.0, 1.0 - 1e-16], dtype=torch.float64))

    assert labels_P.tolist() == [0, 4]
