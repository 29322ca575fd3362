import json
from dataclasses import replace
from pathlib import Path

import pytest

from bench.quality import beats
from bench.recipes import Budget, LearningRateTrial, choose_trial, make_unlearning_spec
from bench.steps import Steps
from bench.tofu_data import DATA_FOLDER, write_tofu
from bench.tofu_model import SIZES, build_models

needs_tofu = pytest.mark.skipif(not (DATA_FOLDER / "tofu").exists(), reason="TOFU is not in ../shared/data")


def read_rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs_tofu
def test_only_the_target_model_is_trained_on_the_forget_set(tmp_path: Path) -> None:
    tofu = write_tofu(tmp_path, "forget10", num_retain_rows=50)

    forget_answers = {row["answer"] for row in read_rows(tofu.evaluation_sets["forget"])}
    target, retrained = read_rows(tofu.train_target), read_rows(tofu.train_retrained)
    assert len(forget_answers) == 400
    assert forget_answers <= {row["answer"] for row in target}
    assert not forget_answers & {row["answer"] for row in retrained}
    assert len(target) == len(retrained) + 400


@needs_tofu
def test_all_splits_share_one_target(tmp_path: Path) -> None:
    splits = [write_tofu(tmp_path / name, name, num_retain_rows=50) for name in ("forget01", "forget05", "forget10")]

    targets = {split.train_target.read_text() for split in splits}
    assert len(targets) == 1
    assert [len(read_rows(split.evaluation_sets["forget"])) for split in splits] == [40, 200, 400]


@needs_tofu
def test_another_split_trains_only_another_retrained_model(tmp_path: Path) -> None:
    lines: list[str] = []
    steps, size = Steps(tmp_path, say=lines.append, use_subprocess=False), replace(SIZES["tiny"], rounds=(1.0,))
    build_models(steps, size, "forget10")
    lines.clear()

    build_models(steps, size, "forget01")

    assert [line for line in lines if line.endswith("...")] == ["retrained-forget01-0 ..."]


@needs_tofu
def test_rows_have_the_perturbed_answers_of_tofu(tmp_path: Path) -> None:
    sets = write_tofu(tmp_path, "forget10").evaluation_sets

    num_perturbed = {name: sum("perturbed_answer" in row for row in read_rows(path)) for name, path in sets.items()}
    assert num_perturbed["forget"] == len(read_rows(sets["forget"]))
    assert num_perturbed["retain"] == 400
    assert (num_perturbed["real_authors"], num_perturbed["world_facts"]) == (100, 117)


def test_a_trial_beats_another_only_in_forgetting_and_utility_together() -> None:
    better, worse, ruined = (
        LearningRateTrial(1, 0, 0.8, 0.2, 1),
        LearningRateTrial(1, 0, 0.7, 0.3, 1),
        LearningRateTrial(1, 0, 0.1, 0.0, 1),
    )
    diverged = LearningRateTrial(1, None, None, None, 0)
    pairs = [(better, worse), (worse, better), (ruined, worse), (better, diverged), (diverged, better), (worse, worse)]
    assert [beats(first, second) for first, second in pairs] == [True, False, False, False, False, False]


def make_trial(lr: float, quality: float | None, utility: float | None) -> LearningRateTrial:
    return LearningRateTrial(lr, quality, utility, 0.1, 1.0)


def test_the_best_trial_has_the_highest_forget_quality_of_the_useful_ones() -> None:
    trials = [make_trial(1, 0.9, 0.2), make_trial(2, 0.3, 0.6), make_trial(3, 0.1, 0.7), make_trial(4, None, None)]

    assert choose_trial(trials, floor=0.5).lr == 2


def test_without_a_useful_trial_the_best_has_the_highest_utility() -> None:
    trials = [make_trial(1, 0.9, 0.2), make_trial(2, 0.1, 0.3), make_trial(3, None, None)]

    assert choose_trial(trials, floor=0.5).lr == 2


def test_a_recipe_is_a_spec_the_engine_accepts() -> None:
    from soul_core.spec import JobSpec

    spec = JobSpec.model_validate(make_unlearning_spec({"kind": "npo"}, {"kind": "sophia"}, Budget(), seed=1))

    assert (spec.training.steps, spec.training.forget_batch) == (Budget().steps, Budget().batch)
