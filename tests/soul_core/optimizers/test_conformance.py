"""Every optimizer of the table on several targets and types: it converges, repeats itself, keeps types, and resumes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from soul_core.optimizers import OPTIMIZERS
from soul_core.optimizers.sophia import Sophia
from soul_core.spec import optimizers as spec_optimizers
from soul_core.training.checkpoint import load_newest_checkpoint, save_checkpoint

SPECS: dict[str, Any] = {
    "adamw": spec_optimizers.AdamW(lr=0.2),
    "sophia": spec_optimizers.Sophia(lr=1.0, gamma=1.0),
    "sophia, gamma auto": spec_optimizers.Sophia(lr=0.1),
    "kfac": spec_optimizers.Kfac(lr=0.1),
    "upstream_compat": spec_optimizers.UpstreamCompat(lr=0.1, rho=1e-5, weight_decay=0),
}
#: Type of the weights and compute type.
DTYPES = {
    "float32": (torch.float32, torch.float32),
    "bfloat16": (torch.bfloat16, torch.bfloat16),
    "mixed": (torch.float32, torch.bfloat16),
}
#: The compute type matters to `upstream_compat` alone, which keeps its state in it.
CASES = [(kind, dtypes) for kind in SPECS for dtypes in DTYPES if dtypes != "mixed" or kind == "upstream_compat"]
NUM_STEPS = 400


@dataclass(frozen=True)
class Target:
    """A function to minimize, with its minimum at 0.

    A parameter whose number is in `resting` has no gradient in two steps of three.
    """

    start: tuple[torch.Tensor, ...]
    loss: Callable[..., torch.Tensor]
    resting: frozenset[int] = frozenset()
    lr_factors: tuple[float, ...] = (1.0,)  # of each parameter group; the parameters are dealt out to the groups


def bowl(theta: torch.Tensor) -> torch.Tensor:
    return (torch.tensor([1.0, 10.0, 0.1]) * theta.float().square()).sum()


def valley(theta: torch.Tensor) -> torch.Tensor:
    """Rosenbrock's function: the way to (1, 1) is curved, and the curvature across it far above the one along it."""
    x, y = theta.float()
    return (1 - x).square() + 10 * (y - x.square()).square()


_X_NI = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))
_Y_NO = _X_NI @ torch.tensor([[1.0, -0.5], [0.25, 1.0], [-1.0, 0.5]]) + torch.tensor([0.5, -1.0])


def regression(weight_IO: torch.Tensor, bias_O: torch.Tensor) -> torch.Tensor:
    return (_X_NI @ weight_IO.float() + bias_O.float() - _Y_NO).square().mean()


TARGETS = {
    "bowl": Target((torch.tensor([1.0, -2.0, 0.5]),), bowl),
    "curved valley": Target((torch.tensor([-0.5, 1.0]),), valley),
    "matrix and vector": Target((torch.zeros(3, 2), torch.zeros(2)), regression),
    "gradient missing in some steps": Target((torch.zeros(3, 2), torch.zeros(2)), regression, resting=frozenset({1})),
    "two parameter groups": Target((torch.zeros(3, 2), torch.zeros(2)), regression, lr_factors=(1.0, 0.5)),
}


class Descent:
    """A run of one optimizer on one target; the learning rate falls linearly to 0."""

    def __init__(self, kind: str, target: str, dtypes: str) -> None:
        self.target = TARGETS[target]
        weights_dtype, compute_dtype = DTYPES[dtypes]
        self.parameters = [torch.nn.Parameter(tensor.to(weights_dtype, copy=True)) for tensor in self.target.start]
        num_groups = len(self.target.lr_factors)
        groups = [{"params": self.parameters[number::num_groups]} for number in range(num_groups)]
        self.optimizer: Optimizer = OPTIMIZERS[SPECS[kind].kind](groups, SPECS[kind], compute_dtype)
        self.lr = SPECS[kind].lr

    @property
    def loss(self) -> float:
        with torch.no_grad():
            return float(self.target.loss(*self.parameters))

    def run(self, first: int, last: int) -> None:
        for step in range(first, last):
            for group, factor in zip(self.optimizer.param_groups, self.target.lr_factors, strict=True):
                group["lr"] = self.lr * factor * (1 - step / NUM_STEPS)
            if isinstance(self.optimizer, Sophia) and step % 5 == 0:
                self.optimizer.update_curvature(self._compute_curvature())
            gradients = torch.autograd.grad(self.target.loss(*self.parameters), self.parameters)
            for number, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
                is_resting = number in self.target.resting and step % 3
                parameter.grad = None if is_resting else gradient
            self.optimizer.step()

    def _compute_curvature(self) -> list[torch.Tensor]:
        """Return the diagonal of the Hessian, in the order of the groups' parameters."""
        floats = tuple(parameter.detach().float() for parameter in self.parameters)
        hessian = torch.autograd.functional.hessian(self.target.loss, floats)
        return [
            hessian[number][number].reshape(tensor.numel(), tensor.numel()).diagonal().reshape(tensor.shape)
            for number, tensor in enumerate(floats)
        ]


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    torch.set_num_threads(1)
    return str(request.param)


def test_every_optimizer_of_the_table_is_tested_here() -> None:
    assert set(OPTIMIZERS) == {spec.kind for spec in SPECS.values()}


@pytest.mark.parametrize(("kind", "dtypes"), CASES)
def test_it_converges_and_keeps_the_type_of_the_weights(kind: str, target: str, dtypes: str) -> None:
    descent = Descent(kind, target, dtypes)
    start_loss = descent.loss

    descent.run(0, NUM_STEPS)

    assert descent.loss < (1e-4 if dtypes == "float32" else 1e-3) * start_loss
    assert {parameter.dtype for parameter in descent.parameters} == {DTYPES[dtypes][0]}


@pytest.mark.parametrize("kind", SPECS)
def test_it_repeats_itself_bit_for_bit(kind: str, target: str) -> None:
    descents = [Descent(kind, target, "float32") for _ in range(2)]

    for descent in descents:
        descent.run(0, 20)

    for first, second in zip(*(descent.parameters for descent in descents), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize(("kind", "dtypes"), CASES)
def test_it_resumes_from_a_checkpoint_bit_for_bit(kind: str, target: str, dtypes: str, tmp_path: Path) -> None:
    straight, interrupted, resumed = (Descent(kind, target, dtypes) for _ in range(3))
    straight.run(0, 20)
    interrupted.run(0, 10)
    states = {"weights": {"parameters": interrupted.parameters}, "optimizer": interrupted.optimizer.state_dict()}
    save_checkpoint(tmp_path, 10, states)

    checkpoint = load_newest_checkpoint(tmp_path, torch.device("cpu"))
    assert checkpoint is not None
    with torch.no_grad():
        for parameter, tensor in zip(resumed.parameters, checkpoint.states["weights"]["parameters"], strict=True):
            parameter.copy_(tensor)
    resumed.optimizer.load_state_dict(checkpoint.states["optimizer"])
    resumed.run(10, 20)

    for number, parameter in enumerate(straight.parameters):
        assert torch.equal(resumed.parameters[number], parameter)
        state, expected = (descent.optimizer.state[descent.parameters[number]] for descent in (resumed, straight))
        assert state.keys() == expected.keys()
        assert all(tensor.dtype == expected[name].dtype for name, tensor in state.items())
