"""The cost model against the operations that a training of a small Llama really takes."""

from pathlib import Path
from typing import Any

import pytest
from torch.utils.flop_counter import FlopCounterMode

from soul_core.models.loading import load_model
from soul_core.spec import JobSpec
from soul_store.cost_model import SetSize, count_operations, count_training
from tests.fixtures.capitals import make_untrained_model
from tests.fixtures.capitals_training import examples_of, train_tiny

FIRST_ORDER = {"optimizer": {"kind": "adamw"}}
_SOPHIA = {"kind": "sophia", "lr": 1e-5}
RECIPES: dict[str, dict[str, Any]] = {
    "upstream_compat is first order": {"optimizer": {"kind": "upstream_compat"}},
    "sophia": {"optimizer": {**_SOPHIA, "curvature": {"data": "retain"}}},
    "every step": {"optimizer": {**_SOPHIA, "curvature": {"kind": "gnb", "every": 1, "data": "both"}}},
    "hutchinson": {"optimizer": {**_SOPHIA, "curvature": {"kind": "hutchinson", "every": 2}}},
    "warm start": {"optimizer": {**_SOPHIA, "curvature": {"kind": "gnb", "warm_start": 3, "data": "forget"}}},
    "influence is one step": {"strategy": {"kind": "influence", "damping": 1.0}},
    "few products": {"strategy": {"kind": "influence", "damping": 1.0, "iterations": 2, "max_examples": 4}},
    "sharpness": {**FIRST_ORDER, "sharpness": {}},
    "latent": {**FIRST_ORDER, "latent": {"steps": 3}},
    "latent and sharpness": {**FIRST_ORDER, "latent": {"steps": 2}, "sharpness": {}},
    "saliency": {**FIRST_ORDER, "saliency": {"score": "wagle"}},
    "ends when enough is forgotten": {**FIRST_ORDER, "training": {"stop_at": 1e-6}},
    "no retain term": {**FIRST_ORDER, "retain": {"kind": "none"}},
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_untrained_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def sizes(model_folder: Path) -> dict[str, SetSize]:
    sets = examples_of(load_model(model_folder, device="cpu", dtype="float32"))
    return {
        name: SetSize(len(examples), sum(len(example.token_ids) for example in examples) / len(examples))
        for name, examples in zip(("forget", "retain"), sets, strict=True)
    }


def make_spec(recipe: dict[str, Any]) -> dict[str, Any]:
    training = {"steps": 6, "forget_batch": 2, "retain_batch": 2, "stop_at": None}
    return {"forget": {"kind": "grad_diff"}, **recipe, "training": {**training, **recipe.get("training", {})}}


def count_flops(model_folder: Path, folder: Path, recipe: dict[str, Any]) -> int:
    """Count the operations of every forward and backward pass of a training."""
    with FlopCounterMode(display=False) as counter:
        train_tiny(model_folder, folder, make_spec(recipe))
    return int(counter.get_total_flops())


@pytest.fixture(scope="module")
def first_order_flops(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    return count_flops(model_folder, tmp_path_factory.mktemp("first_order"), FIRST_ORDER)


@pytest.mark.parametrize("name", RECIPES)
def test_the_cost_relative_to_adamw_is_what_the_passes_take(
    model_folder: Path, sizes: dict[str, SetSize], tmp_path: Path, first_order_flops: int, name: str
) -> None:
    """Relative, because the model's attention, norms and logits are not proportional to its parameters."""
    counted = count_flops(model_folder, tmp_path, RECIPES[name])

    estimated, estimated_first_order = (
        count_training(JobSpec.model_validate(make_spec(recipe)), sizes).total
        for recipe in (RECIPES[name], FIRST_ORDER)
    )

    assert estimated / estimated_first_order == pytest.approx(counted / first_order_flops, rel=0.15)


def test_the_estimate_of_a_training_is_within_a_factor_of_two(
    model_folder: Path, sizes: dict[str, SetSize], first_order_flops: int
) -> None:
    num_parameters = load_model(model_folder, device="cpu", dtype="float32").facts.num_parameters

    estimated = count_training(JobSpec.model_validate(make_spec(FIRST_ORDER)), sizes).total * num_parameters

    assert first_order_flops / 2 < estimated < first_order_flops * 2


def test_paraphrases_cost_what_the_model_writes_and_lengthen_epochs(sizes: dict[str, SetSize]) -> None:
    plain, paraphrased = (
        count_training(JobSpec.model_validate({"data": data, "training": {"epochs": 2}, **FIRST_ORDER}), sizes)
        for data in ({}, {"paraphrases": 3})
    )

    assert paraphrased.generation == pytest.approx(2 * 3 * sizes["forget"].num_tokens)
    assert paraphrased.passes == pytest.approx(4 * plain.passes, rel=0.4), "four times the rows; steps are rounded up"


def test_influence_costs_one_step_whatever_the_spec_says_of_steps(sizes: dict[str, SetSize]) -> None:
    def count(steps: int) -> float:
        spec = JobSpec.model_validate({"training": {"steps": steps}, "strategy": {"kind": "influence"}})
        return count_operations(spec, sizes, 1000, num_compared_models=0).total

    assert count(1) == count(500)
