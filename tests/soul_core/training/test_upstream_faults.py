"""Faults of the released SOUL code: each test runs the training loop and fails if the loop has the fault.

Tests of single functions cover the others: KL without its entropy, NPO by token means or with its own beta
(test_objectives), a refusal under the old answer's mask (test_alternative_answers), the scale 5120 (test_curvature),
bfloat16 without a master (test_optimizers), labels of padding (test_scoring).
"""

from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn.functional import cross_entropy

from soul_core.data.encoding import Example, encode_rows
from soul_core.data.sampling import BatchStream
from soul_core.events import EventKind, SilentListener
from soul_core.models.loading import LoadedModel, load_model
from soul_core.optimizers.curvature import sample_labels
from soul_core.spec import JobSpec
from soul_core.training.checkpoint import Checkpoint, load_newest_checkpoint
from soul_core.training.trainer import train
from tests.fixtures.capitals import COUNTRIES, TEACHABLE_RANGE, make_untrained_model, rows_of

FORGET, RETAIN = list(COUNTRIES)[:3], list(COUNTRIES)[3:]
CPU = torch.device("cpu")
Dtype = Literal["float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = ("float32", "bfloat16")


class StepRecorder(SilentListener):
    """Records the metrics and the checkpoint of every step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.metrics: list[dict[str, Any]] = []
        self.checkpoints: list[Checkpoint] = []

    def emit(self, kind: EventKind, **data: Any) -> None:
        if kind == "metrics":
            self.metrics.append(data)
        if kind == "checkpoint":
            checkpoint = load_newest_checkpoint(self.folder / "train", CPU)
            assert checkpoint is not None
            self.checkpoints.append(checkpoint)

    def get_optimizer_state(self, name: str, *, step: int) -> torch.Tensor:
        """Return one tensor of the optimizer's state, of all parameters, after a step (from 1)."""
        states = self.checkpoints[step - 1].states["optimizer"]["state"]
        return torch.cat([states[number][name].flatten() for number in sorted(states)])


def load(folder: Path, dtype: Dtype = "float32") -> tuple[LoadedModel, list[Example], list[Example]]:
    torch.set_num_threads(1)
    loaded = load_model(folder, device="cpu", dtype=dtype)
    encoded = (encode_rows(rows_of(names), loaded.encoder, max_tokens=128) for names in (FORGET, RETAIN))
    return loaded, *encoded


def unlearn(
    loaded: LoadedModel, forget_set: list[Example], retain_set: list[Example], state: Path, /, **spec: Any
) -> StepRecorder:
    training = {"steps": 5, "checkpoint_every": 1, "forget_batch": 2, "retain_batch": 3}
    recorder = StepRecorder(state)
    full = JobSpec.model_validate({"forget": {"kind": "grad_diff"}, "training": training, **spec})
    train(loaded, full, forget=forget_set, retain=retain_set, state_dir=state, listener=recorder)
    return recorder


def compute_logits(loaded: LoadedModel, example: Example) -> torch.Tensor:
    """Return the logits (P, V) of an example's supervised positions, by a plain call of transformers."""
    logits = loaded.model(torch.tensor([example.token_ids]), use_cache=False).logits[0]
    return torch.as_tensor(logits[example.num_prompt_tokens - 1 : -1])


def compute_gradient(loaded: LoadedModel, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(loaded.model.parameters()))])


def test_curvature_is_of_sampled_labels_not_the_squared_gradient_of_the_loss(
    taught_model_dir: Path, tmp_path: Path
) -> None:
    loaded, forget, retain = load(taught_model_dir)
    recorder = unlearn(loaded, forget, retain, tmp_path, optimizer={"kind": "sophia", "lr": 1e-6}, seed=7)

    base, forget, retain = load(taught_model_dir)
    logits_PV = torch.cat([compute_logits(base, example) for example in take(retain, 3, 8)])
    num_positions = len(logits_PV)
    uniform = torch.rand(num_positions, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    sampled = compute_gradient(base, cross_entropy(logits_PV, sample_labels(logits_PV, uniform)))

    curvature = recorder.get_optimizer_state("h", step=1)
    torch.testing.assert_close(curvature, num_positions * sampled**2, rtol=2e-2, atol=1e-6)
    clipped = 10 * recorder.get_optimizer_state("m", step=1)  # momentum holds a tenth of the loss's clipped gradient
    assert float((curvature - clipped**2).norm()) > 0.5 * float(curvature.norm())


@pytest.mark.parametrize("data", ["forget", "retain", "both"])
def test_curvature_is_of_the_examples_that_the_spec_names(data: str, taught_model_dir: Path, tmp_path: Path) -> None:
    loaded, forget, retain = load(taught_model_dir)
    curvature = {"kind": "empirical_fisher", "data": data}  # samples nothing

    recorder = unlearn(loaded, forget, retain, tmp_path, optimizer={"lr": 1e-6, "curvature": curvature}, seed=7)

    base, forget, retain = load(taught_model_dir)
    step = {"forget": take(forget, 2, 7), "retain": take(retain, 3, 8)}
    examples = [*step["forget"], *step["retain"]] if data == "both" else step[data]
    expected = compute_fisher(base, examples)
    torch.testing.assert_close(recorder.get_optimizer_state("h", step=1), expected, rtol=2e-2, atol=1e-6)


def test_a_warm_start_averages_estimates_of_other_examples(taught_model_dir: Path, tmp_path: Path) -> None:
    loaded, forget, retain = load(taught_model_dir)
    curvature = {"kind": "empirical_fisher", "warm_start": 3, "beta2": 0.5}

    recorder = unlearn(loaded, forget, retain, tmp_path, optimizer={"lr": 1e-6, "curvature": curvature}, seed=7)

    base, _, retain = load(taught_model_dir)
    others = BatchStream(len(retain), 3, 10)
    batches = [take(retain, 3, 8), *([retain[index] for index in others.next_batch()] for _ in range(2))]
    first, second, third = (compute_fisher(base, batch) for batch in batches)
    expected = (first + 2 * second + 4 * third) / 7
    torch.testing.assert_close(recorder.get_optimizer_state("h", step=1), expected, rtol=2e-2, atol=1e-6)


def take(examples: list[Example], count: int, seed: int) -> list[Example]:
    """Return the first batch of a stream."""
    return [examples[index] for index in BatchStream(len(examples), count, seed).next_batch()]


def compute_fisher(base: LoadedModel, examples: list[Example]) -> torch.Tensor:
    """Return the empirical Fisher's diagonal of the examples' answers, one example at a time."""
    logits_PV = torch.cat([compute_logits(base, example) for example in examples])
    labels_P = torch.tensor([token for example in examples for token in example.token_ids[example.num_prompt_tokens :]])
    return len(labels_P) * compute_gradient(base, cross_entropy(logits_PV, labels_P)) ** 2


def test_curvature_is_estimated_every_k_steps_and_unchanged_between(taught_model_dir: Path, tmp_path: Path) -> None:
    loaded, forget, retain = load(taught_model_dir)

    recorder = unlearn(loaded, forget, retain, tmp_path, optimizer={"lr": 1e-4, "curvature": {"every": 3}})

    first, second, third, fourth = (recorder.get_optimizer_state("h", step=step) for step in (1, 2, 3, 4))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert not torch.equal(first, fourth)


def test_momentum_is_averaged_once_per_step_also_where_curvature_is_estimated(
    taught_model_dir: Path, tmp_path: Path
) -> None:
    loaded, forget, retain = load(taught_model_dir)

    recorder = unlearn(
        loaded, forget, retain, tmp_path, optimizer={"lr": 1e-6, "beta1": 0.9, "curvature": {"every": 1}}
    )

    expected = 0.1 * min(1.0, recorder.metrics[0]["grad_norm"])  # averaged twice it would be 0.19
    assert float(recorder.get_optimizer_state("m", step=1).norm()) == pytest.approx(expected, rel=1e-4)


def test_losses_are_means_over_answer_tokens_without_padding(taught_model_dir: Path, tmp_path: Path) -> None:
    loaded, forget, retain = load(taught_model_dir)
    recorder = unlearn(loaded, forget, retain, tmp_path, seed=7)

    base, _, _ = load(taught_model_dir)
    for name, examples, batch, seed in (("forget_loss", forget, 2, 7), ("retain_loss", retain, 3, 8)):
        batch_examples = take(examples, batch, seed)
        logits_PV = torch.cat([compute_logits(base, example) for example in batch_examples])
        labels_P = torch.tensor(
            [token for example in batch_examples for token in example.token_ids[example.num_prompt_tokens :]]
        )
        nll = float(cross_entropy(logits_PV, labels_P).detach())
        assert recorder.metrics[0][name] == pytest.approx(-nll if name == "forget_loss" else nll, rel=1e-3)


@pytest.mark.parametrize("kind", ["sophia", "adamw"])
def test_with_bfloat16_compute_every_weight_changes_at_a_small_rate(
    taught_model_dir: Path, tmp_path: Path, kind: str
) -> None:
    loaded, forget, retain = load(taught_model_dir, "bfloat16")
    before = [parameter.detach().clone() for parameter in loaded.model.parameters()]

    unlearn(loaded, forget, retain, tmp_path, optimizer={"kind": kind, "lr": 5e-6})

    def compute_changed_fraction(dtype: torch.dtype) -> float:
        pairs = list(zip(before, loaded.model.parameters(), strict=True))
        num_changed = sum(int((old.to(dtype) != new.detach().to(dtype)).sum()) for old, new in pairs)
        return num_changed / sum(old.numel() for old, _ in pairs)

    assert compute_changed_fraction(torch.float32) > 0.95
    assert compute_changed_fraction(torch.bfloat16) < 0.5, "bfloat16 weights alone lose most of these steps"


def test_bfloat16_compute_follows_float32(tmp_path: Path) -> None:
    # The gradients of an untrained model are far above bfloat16's rounding; those of a trained one are near 0.
    model = make_untrained_model(tmp_path / "model", initializer_range=TEACHABLE_RANGE)
    curves = {}
    for dtype in DTYPES:
        recorder = unlearn(*load(model, dtype), tmp_path / dtype, optimizer={"lr": 3e-3})
        curves[dtype] = [data["loss"] for data in recorder.metrics]

    assert curves["float32"][-1] < curves["float32"][0] - 0.5, "the curves change enough to be compared"
    assert curves["bfloat16"] == pytest.approx(curves["float32"], rel=0.05, abs=0.02)


def test_the_retain_kl_starts_at_zero_also_in_bfloat16(taught_model_dir: Path, tmp_path: Path) -> None:
    for dtype in DTYPES:
        recorder = unlearn(*load(taught_model_dir, dtype), tmp_path / dtype, retain={"kind": "kl"})

        # a cross-entropy would start at the base model's entropy
        assert recorder.metrics[0]["retain_loss"] == pytest.approx(0, abs=1e-5)
        assert recorder.metrics[-1]["retain_loss"] > 0
