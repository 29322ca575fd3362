"""Ensembles, and the table of strategies, on a tiny model that knows ten capitals."""

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.merge_utils import ties
from pydantic import ValidationError
from safetensors.torch import load_file

from soul_core.errors import TrainingDivergedError
from soul_core.pipeline.strategies import STRATEGIES
from soul_core.pipeline.strategies.merging import merge_mean, merge_ties
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.fixtures.capitals import COUNTRIES, write_rows
from tests.soul_core.spec.test_methods_docs import kinds
from tests.soul_core.test_run import expect_refusal

CRITERIA = [
    {"set": "forget", "metric": "probability", "at_most": 0.3, "relative_to_base": True},
    {"set": "retain", "metric": "probability", "at_least": 0.7, "relative_to_base": True},
]
COMMON = {
    "optimizer": {"kind": "sophia", "lr": 3e-3},
    "retain": {"kind": "nll", "weight": 3.0},
    "training": {"steps": 12, "checkpoint_every": 4, "stop_at": None},
    "evaluation": {"metrics": ["probability"], "max_new_tokens": 8, "bootstrap": 20, "num_answer_samples": 0},
    "criteria": CRITERIA,
    "attacks": [],
    # the six rows are all trained on; a recipe with a seed of its own, run alone, would hold out others
    "data": {"retain_held_out": 0},
}


def spec(**changes: Any) -> JobSpec:
    return JobSpec.model_validate({**COMMON, **changes})


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sets")
    names = {"forget": list(COUNTRIES)[:4], "retain": list(COUNTRIES)[4:]}
    return RunInputs(
        model=str(taught_model_dir),
        dataset_paths={name: write_rows(folder / f"{name}.jsonl", countries) for name, countries in names.items()},
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def test_spec_and_table_have_the_same_strategies() -> None:
    from soul_core.spec.strategy import Strategy

    assert kinds(Strategy) == set(STRATEGIES)


#: Recipes with base scores, a mask, adapters, alternative answers: each computes its own from the base model.
MEMBERS: list[dict[str, Any]] = [
    {"seed": 1, "saliency": {}},
    {"forget": {"kind": "grad_diff", "weight": 0.2}, "optimizer": {"kind": "adamw", "lr": 1e-3}},
    {"retain": {"kind": "kl"}, "lora": {"rank": 4}, "training": {"steps": 6}},
    {"forget": {"kind": "altpo"}, "training": {"steps": 4}},
]


@pytest.fixture(scope="module")
def changes(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, torch.Tensor]]:
    """The weight changes of each of MEMBERS as a job of its own."""
    base, all_changes = load_file(Path(inputs.model) / "model.safetensors"), []
    for member in MEMBERS:
        content = COMMON | {
            key: {**COMMON.get(key, {}), **of} if key == "training" else of for key, of in member.items()
        }
        run(JobSpec.model_validate(content), inputs, out := tmp_path_factory.mktemp("alone"))
        all_changes.append({name: after - base[name] for name, after in weights(out).items()})
    return all_changes


@pytest.mark.parametrize(("merge", "of"), [("mean", merge_mean), ("ties", partial(merge_ties, density=0.3))])
def test_an_ensemble_is_the_base_plus_the_merged_changes_of_its_recipes(
    changes: list[dict[str, torch.Tensor]], inputs: RunInputs, tmp_path: Path, merge: str, of: Any
) -> None:
    ensemble = {"kind": "ensemble", "members": MEMBERS, "merge": merge, "density": 0.3}

    report = run(spec(strategy=ensemble), inputs, tmp_path)

    base = load_file(Path(inputs.model) / "model.safetensors")
    for name, merged in weights(tmp_path).items():
        expected = of([change[name] for change in changes])
        torch.testing.assert_close(merged - base[name], expected, rtol=1e-4, atol=1e-6)
    assert [trial.settings for trial in report.trials[:2]] == [
        {"seed": 1, "saliency": {}},
        {"forget.kind": "grad_diff", "forget.weight": 0.2, "optimizer.kind": "adamw", "optimizer.lr": 1e-3},
    ]
    assert report.run.steps == 12 + 12 + 6 + 4


def test_the_best_of_two_recipes_is_the_one_with_the_smaller_shortfall(inputs: RunInputs, tmp_path: Path) -> None:
    idle = {"optimizer": {"lr": 1e-9}}

    report: Report = run(
        spec(strategy={"kind": "ensemble", "members": [idle, {"seed": 0}], "merge": "best"}), inputs, tmp_path
    )

    assert [trial.chosen for trial in report.trials] == [False, True]
    assert (report.trials[0].shortfall or 0) > (report.trials[1].shortfall or 0)


def test_a_recipe_that_diverges_is_reported_and_the_others_are_used(inputs: RunInputs, tmp_path: Path) -> None:
    far_too_high = {"kind": "adamw", "lr": 1.0, "beta2": 0.0}
    runaway = {"optimizer": far_too_high, "training": {"steps": 100, "forget_batch": 1}}
    quiet = {"seed": 1}

    report = run(spec(strategy={"kind": "ensemble", "merge": "best", "members": [runaway, quiet]}), inputs, tmp_path)

    assert [(trial.outcome == "diverged", trial.chosen) for trial in report.trials] == [(True, False), (False, True)]
    retain_probability = report.models["unlearned"].sets["retain"]["probability"].value
    assert retain_probability == pytest.approx(report.trials[1].values["retain probability"], rel=1e-4)
    with pytest.raises(TrainingDivergedError, match="1 of 2 recipes diverged, and 'mean' needs more than are left"):
        run(spec(strategy={"kind": "ensemble", "members": [runaway, quiet]}), inputs, tmp_path / "mean")


def test_ties_elects_signs_and_averages_those_that_agree() -> None:
    changes = [torch.tensor([3.0, -1.0, 0.1, 2.0]), torch.tensor([1.0, 4.0, 0.0, -2.0])]

    assert merge_ties(changes, density=0.5).tolist() == [3.0, 4.0, 0.0, 0.0]
    assert merge_ties(changes, density=1.0).tolist() == pytest.approx([2.0, 4.0, 0.1, 0.0])
    assert merge_mean(changes).tolist() == pytest.approx([2.0, 1.5, 0.05, 0.0])


@pytest.mark.filterwarnings("ignore:The density 1.0:UserWarning")
@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
def test_ties_equals_pefts_for_one_tensor(density: float) -> None:
    changes = list(torch.randn(3, 10, 10, generator=torch.Generator().manual_seed(0)))
    theirs = ties(changes, torch.ones(3), density)
    torch.testing.assert_close(merge_ties(changes, density=density), theirs)


@pytest.mark.parametrize(
    ("member", "claim"),
    [
        ({"parameters": {"include": ["nope.*"]}}, r"strategy.members.1: parameters.include.0: 'nope\.\*' matches no"),
        ({"lora": {"targets": ["nope"]}}, r"strategy.members.1: lora.targets"),
        ({"forget": {"kind": "rmu", "layer": 9}}, r"strategy.members.1: forget.layer: the model has layers 0 to 1"),
        ({"forget": {"kind": "dpo", "refusals": ["no " * 200]}}, r"strategy.members.1: forget set: 4 of 4 rows"),
        ({"retain": {"kind": "rmu_retain"}, "saliency": {}, "lora": {}}, "the spec has 2 problems"),
        (
            {"lora": {"output": "adapter"}},
            r"strategy.members.1.lora.output: 'ensemble' chooses or merges complete models",
        ),
    ],
)
def test_a_recipe_that_cannot_run_is_refused_before_another_is_trained(
    inputs: RunInputs, tmp_path: Path, member: dict[str, Any], claim: str
) -> None:
    wrong = spec(strategy={"kind": "ensemble", "members": [{}, member]})

    error, _ = expect_refusal(inputs, tmp_path, wrong)

    assert re.match(claim, error.message), error.message


@pytest.mark.parametrize(
    "field", ["kind", "criteria", "evaluation", "prior_forget_sets", "strategy", "attacks", "dtype"]
)
def test_a_recipe_has_no_setting_of_the_job(field: str) -> None:
    value = spec(kind="evaluate", criteria=[]).model_dump()[field]

    with pytest.raises(ValidationError, match=f"strategy.members.1: a member cannot set '{field}'"):
        spec(strategy={"kind": "ensemble", "members": [{}, {field: value}]})


def test_invalid_members_are_refused_with_the_spec() -> None:
    with pytest.raises(ValidationError, match="did you mean 'seed'"):
        spec(strategy={"kind": "ensemble", "members": [{"sead": 1}, {}]})
    with pytest.raises(ValidationError, match=r"strategy.members.1.optimizer.adamw.lr: Input should be greater than 0"):
        spec(strategy={"kind": "ensemble", "members": [{}, {"optimizer": {"kind": "adamw", "lr": -1}}]})
