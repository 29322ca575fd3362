"""The forget gradient where the forget loss is worst nearby."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from soul_core.models.loading import LoadedModel
from soul_core.training.micro_batching import BatchItem, BatchUnit
from soul_core.training.sharpness import add_sharpness_aware_gradients
from soul_core.training.step import Losses, compute_nll_gradients, get_trainable_parameters
from tests.fixtures.capitals_training import train_tiny, weights
from tests.fixtures.tiny_derivatives import batcher, flat, small_llama, unflat
from tests.fixtures.tiny_derivatives import units as both_units

RHO = 0.05


def units() -> list[BatchUnit]:
    """The first example to forget, the second to keep."""
    first, second = both_units()
    return [(BatchItem("forget", 0, first[0].example),), second]


def ascend_and_keep(loaded: LoadedModel, at: list[torch.Tensor], chosen: Sequence[BatchUnit]) -> Losses:
    """Accumulate the gradient of -NLL(forget) + 2 NLL(retain); note the weights it was taken at."""
    at.append(flat([parameter.detach().clone() for parameter in get_trainable_parameters(loaded)]))
    losses = Losses()
    for unit in chosen:
        factor = -1.0 if unit[0].group == "forget" else 2.0
        before = [parameter.grad for parameter in get_trainable_parameters(loaded)]
        gradients, _ = compute_nll_gradients(loaded, [unit], batcher())
        for parameter, old, new in zip(get_trainable_parameters(loaded), before, gradients, strict=True):
            parameter.grad = factor * new if old is None else old + factor * new
        losses.total += factor
        setattr(losses, "forget" if factor < 0 else "retain", factor)
    return losses


def test_the_forget_gradient_is_of_the_worst_point_the_retain_gradient_is_not() -> None:
    loaded, at = small_llama(), []
    home = flat([*get_trainable_parameters(loaded)])

    losses = add_sharpness_aware_gradients(lambda chosen: ascend_and_keep(loaded, at, chosen), loaded, units(), rho=RHO)

    forget, retain = units()
    plain = small_llama()
    direction = -flat(compute_nll_gradients(plain, [forget], batcher())[0])
    remaining = 2 * flat(compute_nll_gradients(plain, [retain], batcher())[0])
    worst = home + RHO * direction / direction.norm()
    with torch.no_grad():
        for parameter, part in zip(get_trainable_parameters(plain), unflat(plain, worst), strict=True):
            parameter.copy_(part)
    expected = -flat(compute_nll_gradients(plain, [forget], batcher())[0]) + remaining
    torch.testing.assert_close(flat([p.grad for p in get_trainable_parameters(loaded) if p.grad is not None]), expected)
    torch.testing.assert_close(at[1], worst)
    assert torch.equal(at[0], home)
    assert torch.equal(at[2], home)
    assert (losses.total, losses.forget, losses.retain) == (1.0, -1.0, 2.0)


def test_the_weights_come_back_to_the_bit_also_when_the_worst_point_fails() -> None:
    loaded, calls = small_llama(), []
    home = flat([parameter.detach().clone() for parameter in get_trainable_parameters(loaded)])

    def second_fails(chosen: Sequence[BatchUnit]) -> Losses:
        if len(calls) == 1:
            raise ZeroDivisionError
        return ascend_and_keep(loaded, calls, chosen)

    with pytest.raises(ZeroDivisionError):
        add_sharpness_aware_gradients(second_fails, loaded, units(), rho=RHO)

    assert torch.equal(flat([*get_trainable_parameters(loaded)]), home)


def test_a_tiny_radius_is_the_plain_training(taught_model_dir: Path, tmp_path: Path) -> None:
    spec = {"optimizer": {"kind": "adamw", "lr": 1e-3, "eps": 1e-3}, "training": {"steps": 4}}
    plain, plain_model = train_tiny(taught_model_dir, tmp_path / "plain", spec)

    sharp, sharp_model = train_tiny(taught_model_dir, tmp_path / "sharp", {**spec, "sharpness": {"rho": 1e-6}})

    torch.testing.assert_close(weights(sharp_model), weights(plain_model), rtol=0, atol=2e-4)
    assert sharp.curves["forget_loss"] == pytest.approx(plain.curves["forget_loss"], rel=1e-2)
    assert sharp.flops > 1.3 * plain.flops
