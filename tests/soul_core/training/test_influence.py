"""The influence step: its algebra, its bound, the search for its damping, interruption and resumption."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.errors import RunCancelledError, RunInterruptedError, TrainingDivergedError
from soul_core.events import StopRequest
from soul_core.models.loading import load_model
from soul_core.spec import JobSpec
from soul_core.training.checkpoint import load_newest_checkpoint
from soul_core.training.influence import build_krylov_space, take_influence_step
from soul_core.training.second_order import gauss_newton_vector_product
from soul_core.training.step import compute_nll_gradients
from tests.fixtures.capitals_training import RecordingListener, examples_of, probability, train_tiny, weights
from tests.fixtures.tiny_derivatives import batcher, flat, jacobian_PVW, small_llama, units

SPEC: dict[str, Any] = {"strategy": {"kind": "influence", "iterations": 6}}


def make_system(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(size, size, generator=generator)
    return root @ root.T / size, torch.randn(size, generator=generator)


@pytest.mark.parametrize("damping", [1e-2, 1.0, 100.0])
def test_a_complete_space_solves_the_damped_system_for_every_damping(damping: float) -> None:
    matrix, start = make_system(12)

    space = build_krylov_space(lambda v: [matrix @ v[0]], [start], 12)

    expected = torch.linalg.solve(matrix.double() + damping * torch.eye(12, dtype=torch.float64), start.double())
    torch.testing.assert_close(space.solve(damping)[0], expected.float(), rtol=1e-3, atol=1e-4)
    assert space.largest_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-4)


def test_a_partial_space_gives_as_many_iterations_of_conjugate_gradients() -> None:
    matrix, start = make_system(30)
    damped = matrix + 0.1 * torch.eye(30)
    x, residual = torch.zeros(30), start.clone()
    direction = residual.clone()
    for _ in range(5):
        product = damped @ direction
        length = residual @ residual / (direction @ product)
        x, new = x + length * direction, residual - length * product
        direction = new + (new @ new) / (residual @ residual) * direction
        residual = new

    space = build_krylov_space(lambda v: [matrix @ v[0]], [start], 5)

    torch.testing.assert_close(space.solve(0.1)[0], x, rtol=1e-3, atol=1e-4)


def test_it_ends_early_where_the_matrix_adds_nothing_new() -> None:
    space = build_krylov_space(lambda v: [2 * v[0]], [torch.tensor([3.0, 4.0])], 9)

    assert len(space.basis) == 1
    torch.testing.assert_close(space.solve(0.0)[0], torch.tensor([1.5, 2.0]))


def test_on_a_small_llama_the_step_is_the_damped_inverse_of_the_dense_matrix() -> None:
    loaded = small_llama()
    jacobian, logits_PV = jacobian_PVW(loaded)
    p_PV = torch.softmax(logits_PV, dim=-1).double()
    bend_PVV = torch.diag_embed(p_PV) - p_PV[:, :, None] * p_PV[:, None, :]
    matrix = torch.einsum("pvw,pvu,pux->wx", jacobian.double(), bend_PVV, jacobian.double()) / len(p_PV)
    gradient, _ = compute_nll_gradients(loaded, units(), batcher())
    damping = 0.1 * float(torch.linalg.eigvalsh(matrix)[-1])

    space = build_krylov_space(lambda v: gauss_newton_vector_product(loaded, units(), batcher(), v), gradient, 30)

    expected = torch.linalg.solve(
        matrix + damping * torch.eye(len(matrix), dtype=torch.float64), flat(gradient).double()
    )
    torch.testing.assert_close(
        flat(space.solve(damping)).double(), expected, rtol=1e-2, atol=1e-3 * float(expected.abs().max())
    )


def test_it_makes_the_forget_answers_less_probable_and_keeps_its_bound(taught_model_dir: Path, tmp_path: Path) -> None:
    base = load_model(taught_model_dir, device="cpu")
    forget, retain = examples_of(base)
    ear = RecordingListener()

    trained, after = train_tiny(taught_model_dir, tmp_path, SPEC, ear)

    assert probability(after, forget) < 0.8 * probability(base, forget)
    assert probability(after, retain) > 0.9 * probability(base, retain)  # the bound: 0.1 nats
    assert trained.steps == 1
    dampings = [value for value in trained.curves["damping"] if value is not None]
    assert dampings == sorted(dampings)
    assert trained.curves["retain_nll"][-1] <= min(value or 0 for value in trained.curves["retain_nll"][:-1])
    assert [data["done"] for data in ear.of("progress")] == [1, 2, 3, 4, 5, 6]


def test_a_looser_bound_lets_it_forget_more(taught_model_dir: Path, tmp_path: Path) -> None:
    forget_nlls = []
    for bound in (0.02, 0.5):
        spec = {"strategy": {**SPEC["strategy"], "max_retain_increase": bound}}
        trained, _ = train_tiny(taught_model_dir, tmp_path / str(bound), spec)
        forget_nlls.append(trained.curves["forget_nll"][-1])

    assert forget_nlls[1] > forget_nlls[0]


def test_a_bound_that_no_damping_keeps_is_an_error_and_restores_the_weights(
    taught_model_dir: Path, tmp_path: Path
) -> None:
    base = load_model(taught_model_dir, device="cpu")
    forget, _ = examples_of(base)
    spec = JobSpec.model_validate({"strategy": {**SPEC["strategy"], "max_retain_increase": 1e-9}})
    loaded = load_model(taught_model_dir, device="cpu")

    with pytest.raises(TrainingDivergedError, match=r"raise strategy\.max_retain_increase"):
        # the forget set is the retain set
        take_influence_step(
            loaded, spec, forget=forget, retain=forget, state_dir=tmp_path, listener=RecordingListener()
        )

    assert torch.equal(weights(loaded), weights(base))


def test_a_damping_of_the_spec_is_used_whatever_the_bound(taught_model_dir: Path, tmp_path: Path) -> None:
    spec = {"strategy": {**SPEC["strategy"], "damping": 0.02}}

    trained, _ = train_tiny(taught_model_dir, tmp_path, spec)

    assert trained.curves["damping"] == (0.02,)


def test_an_interrupted_step_starts_again_and_a_taken_step_is_restored(taught_model_dir: Path, tmp_path: Path) -> None:
    _, straight = train_tiny(taught_model_dir, tmp_path / "straight", SPEC)

    with pytest.raises(RunInterruptedError):
        train_tiny(taught_model_dir, tmp_path / "again", SPEC, RecordingListener(stop_after_metrics=1))
    _, repeated = train_tiny(taught_model_dir, tmp_path / "again", SPEC)
    listener = RecordingListener()
    result, restored = train_tiny(taught_model_dir, tmp_path / "again", SPEC, listener)

    assert torch.equal(weights(repeated), weights(straight))
    assert torch.equal(weights(restored), weights(straight))
    assert listener.of("progress") == []
    assert result.resumed_at_steps == [1]


def test_it_can_be_cancelled(taught_model_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(RunCancelledError):
        train_tiny(
            taught_model_dir, tmp_path, SPEC, RecordingListener(stop_after_metrics=0, request=StopRequest.CANCEL)
        )

    assert load_newest_checkpoint(tmp_path / "train", torch.device("cpu")) is None


def test_only_the_selected_weights_change(taught_model_dir: Path, tmp_path: Path) -> None:
    spec = {**SPEC, "parameters": {"include": ["model.layers.1.mlp.*"]}}
    before = load_model(taught_model_dir, device="cpu").model.state_dict()

    _, after = train_tiny(taught_model_dir, tmp_path, spec)

    changed = {name for name, tensor in after.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}
