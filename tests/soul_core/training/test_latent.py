"""Latent perturbation: the forget gradient at hidden states that were changed to bring the answers back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from soul_core.data.packing import pack
from soul_core.errors import BadSpec
from soul_core.models.capabilities import Capabilities, set_capabilities
from soul_core.models.loading import LoadedModel
from soul_core.models.scoring import score
from soul_core.spec import JobSpec
from soul_core.spec.wrappers import LatentPerturbation
from soul_core.training.base_scores import BaseScores
from soul_core.training.latent import PerturbedLayer, find_perturbed_layers, find_worst_perturbation, perturb_outputs
from soul_core.training.micro_batching import BatchItem, BatchUnit
from soul_core.training.step import add_gradients, get_trainable_parameters
from tests.fixtures.capitals_training import examples_of, probability, train_tiny, weights
from tests.fixtures.tiny_derivatives import batcher, flat, small_llama, units

ALL = LatentPerturbation(layers=(0,), radius=0.2, steps=1, positions="all")
PROMPT = ALL.model_copy(update={"positions": "prompt"})
EXAMPLES = [unit[0].example for unit in units()]
#: The first tokens of the two examples, and the positions that hold tokens of their answers.
FIRST, ANSWER = [0, 7], [3, 4, 5, 6, 9, 10, 11]


def find(
    loaded: LoadedModel, spec: LatentPerturbation, groups: tuple[Any, ...] = ("forget", "forget")
) -> PerturbedLayer:
    (layer,) = find_worst_perturbation(loaded, pack(EXAMPLES), groups, spec)
    return layer


def compute_logp(loaded: LoadedModel, layers: list[PerturbedLayer]) -> torch.Tensor:
    """Return the log-probability of each example's answer with the changes in place."""
    with torch.no_grad(), perturb_outputs(layers):
        return score(loaded.model, pack(EXAMPLES)).sequence_logp_B


@torch.no_grad()
def record_states(loaded: LoadedModel) -> torch.Tensor:
    """Return the outputs of the first layer, (T, D)."""
    outputs: list[torch.Tensor] = []
    hook = find_perturbed_layers(loaded.model, ALL)[0].register_forward_hook(lambda _, __, out: outputs.append(out))
    score(loaded.model, pack(EXAMPLES))
    hook.remove()
    return outputs[0][0]


def test_one_step_goes_to_the_bound_along_the_gradient_of_the_answers_likelihood() -> None:
    loaded = small_llama()
    norm_T = record_states(loaded).norm(dim=-1)

    (delta_1TD,) = find(loaded, ALL).deltas

    expected = delta_1TD[0].norm(dim=-1)
    moved = [position for position in range(12) if position not in {*FIRST, 6, 11}]  # the last tokens predict nothing
    torch.testing.assert_close(expected[moved], 0.2 * norm_T[moved])
    assert not delta_1TD[0, [*FIRST, 6, 11]].any()
    for position, coordinate in ((1, 3), (2, 0), (4, 9), (10, 15)):  # by finite differences of the log-likelihood
        layer = find(loaded, ALL)
        direction = layer.deltas[0][0, position] / layer.deltas[0][0, position].norm()
        gradient = torch.stack([differentiate(loaded, layer, position, i) for i in range(16)])
        torch.testing.assert_close(direction[coordinate], (gradient / gradient.norm())[coordinate], rtol=0, atol=5e-3)


def differentiate(loaded: LoadedModel, layer: PerturbedLayer, position: int, coordinate: int) -> torch.Tensor:
    """Return the central difference of the log-likelihood of both answers by one coordinate of an unchanged state."""
    values = []
    for sign in (1, -1):
        layer.deltas = [torch.zeros(1, 12, 16)]
        layer.deltas[0][0, position, coordinate] = sign * 1e-2
        values.append(compute_logp(loaded, [layer]).sum())
    return (values[0] - values[1]) / 2e-2


def test_more_steps_raise_the_likelihood_of_the_answers_further_within_the_bound() -> None:
    loaded = small_llama()
    plain = compute_logp(loaded, []).sum()
    bound_T = 0.2 * record_states(loaded).norm(dim=-1)

    layers = [find(loaded, ALL.model_copy(update={"steps": steps})) for steps in (1, 8)]

    raised = [float(compute_logp(loaded, [layer]).sum() - plain) for layer in layers]
    assert 0 < raised[0] < raised[1]
    assert all(bool((layer.deltas[0][0].norm(dim=-1) <= bound_T * (1 + 1e-5)).all()) for layer in layers)


def test_other_answers_than_the_forget_answers_are_made_less_likely() -> None:
    loaded = small_llama()
    plain_B = compute_logp(loaded, [])

    changed_B = compute_logp(loaded, [find(loaded, ALL, ("forget", "refusal"))])

    assert changed_B[0] > plain_B[0]
    assert changed_B[1] < plain_B[1]


def test_states_of_answer_tokens_stay_unless_all_positions_are_named() -> None:
    loaded = small_llama()

    (prompt_1TD,), (all_1TD,) = find(loaded, PROMPT).deltas, find(loaded, ALL).deltas

    changed = prompt_1TD[0].any(dim=-1)
    assert changed.nonzero().flatten().tolist() == [1, 2, 8]
    assert all_1TD[0, ANSWER].any()


def test_plain_text_is_changed_everywhere_but_at_its_first_token() -> None:
    loaded = small_llama()
    text = EXAMPLES[0].__class__((3, 7, 1, 9), 1, 1)  # only its first token is not supervised

    (layer,) = find_worst_perturbation(loaded, pack([text, EXAMPLES[1]]), ("forget", "forget"), PROMPT)

    assert layer.deltas[0][0].any(dim=-1).nonzero().flatten().tolist() == [1, 2, 5]


def compute_gradient(
    spec: dict[str, Any], chosen: list[BatchUnit], max_tokens: int = 2048, *, is_padded: bool = False
) -> torch.Tensor:
    loaded = small_llama()
    if is_padded:
        set_capabilities(loaded.model, Capabilities("padded"))
    full = JobSpec.model_validate({"forget": {"kind": "grad_diff"}, **spec})
    add_gradients(loaded, full, chosen, BaseScores(loaded.device), batcher(max_tokens))
    return flat([parameter.grad for parameter in get_trainable_parameters(loaded) if parameter.grad is not None])


def test_forget_gradients_are_of_the_changed_states_and_retain_gradients_are_not() -> None:
    forget = (BatchItem("forget", 0, EXAMPLES[0]),)
    retain = units()[1]

    both = compute_gradient({"latent": ALL.model_dump()}, [forget, retain])

    loaded = small_llama()
    layers = find_worst_perturbation(loaded, pack(EXAMPLES[:1]), ("forget",), ALL)
    with perturb_outputs(layers):
        (-score(loaded.model, pack(EXAMPLES[:1])).logp_P.mean()).neg().backward()  # ascent: minus the NLL
    by_hand = flat([parameter.grad for parameter in get_trainable_parameters(loaded) if parameter.grad is not None])
    torch.testing.assert_close(both, by_hand + compute_gradient({}, [retain]))
    assert not torch.allclose(both, compute_gradient({}, [forget, retain]), rtol=1e-2)


def test_order_and_micro_batches_change_nothing() -> None:
    chosen = [(BatchItem("forget", 0, EXAMPLES[0]),), (BatchItem("forget", 1, EXAMPLES[1]),), units()[0]]
    spec = {"latent": {**ALL.model_dump(), "steps": 3}}

    together = compute_gradient(spec, chosen)

    torch.testing.assert_close(compute_gradient(spec, chosen[::-1]), together)
    torch.testing.assert_close(compute_gradient(spec, chosen, max_tokens=8), together)


@pytest.mark.parametrize("positions", ["prompt", "all"])
def test_padded_batches_give_the_gradient_of_packed_ones(positions: str) -> None:
    chosen: list[BatchUnit] = [(BatchItem("forget", index, example),) for index, example in enumerate(EXAMPLES)]
    spec = {"latent": {**ALL.model_dump(), "positions": positions, "layers": (0, 1), "steps": 2}}

    padded = compute_gradient(spec, chosen, is_padded=True)

    torch.testing.assert_close(padded, compute_gradient(spec, chosen), rtol=1e-4, atol=1e-5)


def test_the_ascent_leaves_no_gradient_and_no_hook() -> None:
    loaded = small_llama()
    before = compute_logp(loaded, [])

    find(loaded, ALL)

    assert all(parameter.grad is None for parameter in loaded.model.parameters())
    assert torch.equal(compute_logp(loaded, []), before)


def test_a_layer_that_the_model_lacks_is_refused() -> None:
    with pytest.raises(BadSpec, match=r"latent.layers: the model has layers 0 to 1, and no layer 7"):
        find_perturbed_layers(small_llama().model, LatentPerturbation(layers=(7,)))


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
@pytest.mark.parametrize("optimizer", ["sophia", "adamw"])
def test_a_tiny_radius_gives_the_plain_training(
    lora: dict[str, int] | None, optimizer: str, taught_model_dir: Path, tmp_path: Path
) -> None:
    spec: dict[str, Any] = {"optimizer": {"kind": optimizer, "lr": 1e-3}, "training": {"steps": 2}, "lora": lora}
    plain, plain_model = train_tiny(taught_model_dir, tmp_path / "plain", spec)

    latent, latent_model = train_tiny(taught_model_dir, tmp_path / "latent", {**spec, "latent": {"radius": 1e-7}})

    assert latent.curves["forget_loss"] == pytest.approx(plain.curves["forget_loss"], rel=1e-3)
    difference = (weights(latent_model) - weights(plain_model)).abs()
    assert float((difference > 1e-4).float().mean()) < 0.02, "only signs of tiny gradients may differ"
    assert latent.flops > 1.5 * plain.flops


@pytest.mark.parametrize(
    "further",
    [
        {},
        {"lora": {"rank": 4}},
        {"sharpness": {}, "saliency": {"keep_fraction": 0.9}},
        {"latent": {"positions": "prompt"}},
    ],
    ids=["alone", "lora", "sharpness and saliency", "prompt"],
)
@pytest.mark.parametrize(("optimizer", "lr"), [("sophia", 1e-3), ("adamw", 1e-3)])
def test_a_few_steps_forget_and_retain(
    optimizer: str, lr: float, further: dict[str, Any], taught_model_dir: Path, tmp_path: Path
) -> None:
    spec = {
        "optimizer": {"kind": optimizer, "lr": 5 * lr if "lora" in further else lr},
        "retain": {"kind": "nll", "weight": 3.0},
        "training": {"steps": 16},
        "latent": {"steps": 1},
        **further,
    }

    _, loaded = train_tiny(taught_model_dir, tmp_path, spec)

    forget, retain = (probability(loaded, examples) for examples in examples_of(loaded))
    assert forget < 0.6
    assert forget < retain - 0.2
