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


def rows(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@needs_tofu
def test_the_retrained_model_sees_nothing_of_what_is_forgotten_and_the_target_sees_all(tmp_path: Path) -> None:
    tofu = write_tofu(tmp_path, "forget10", num_retain_rows=50)

    forgotten = {row["answer"] for row in rows(tofu.evaluation_sets["forget"])}
    target, retrained = rows(tofu.train_target), rows(tofu.train_retrained)
    assert len(forgotten) == 400
    assert forgotten <= {row["answer"] for row in target}
    assert not forgotten & {row["answer"] for row in retrained}
    assert len(target) == len(retrained) + 400


@needs_tofu
def test_one_target_serves_every_split(tmp_path: Path) -> None:
    splits = [write_tofu(tmp_path / name, name, num_retain_rows=50) for name in ("forget01", "forget05", "forget10")]

    targets = {split.train_target.read_text() for split in splits}
    assert len(targets) == 1
    assert [len(rows(split.evaluation_sets["forget"])) for split in splits] == [40, 200, 400]


@needs_tofu
def test_another_split_trains_a_retrained_model_and_no_other_target(tmp_path: Path) -> None:
    said: list[str] = []
    steps, size = Steps(tmp_path, say=said.append, use_subprocess=False), replace(SIZES["tiny"], rounds=(1.0,))
    build_models(steps, size, "forget10")
    said.clear()

    build_models(steps, size, "forget01")

    assert [line for line in said if line.endswith("...")] == ["retrained-forget01-0 ..."]


@needs_tofu
def test_rows_that_tofu_gives_other_answers_for_carry_them(tmp_path: Path) -> None:
    measured = write_tofu(tmp_path, "forget10").evaluation_sets

    with_others = {name: sum("perturbed_answer" in row for row in rows(path)) for name, path in measured.items()}
    assert with_others["forget"] == len(rows(measured["forget"]))
    assert with_others["retain"] == 400
    assert (with_others["real_authors"], with_others["world_facts"]) == (100, 117)


def test_a_trial_beats_another_only_on_both_counts() -> None:
    better, worse, ruined = (
        LearningRateTrial(1, 0, 0.8, 0.2, 1),
        LearningRateTrial(1, 0, 0.7, 0.3, 1),
        LearningRateTrial(1, 0, 0.1, 0.0, 1),
    )
    diverged = LearningRateTrial(1, None, None, None, 0)
    pairs = [(better, worse), (worse, better), (ruined, worse), (better, diverged), (diverged, better), (worse, worse)]
    assert [beats(one, other) for one, other in pairs] == [True, False, False, False, False, False]


def trial(lr: float, quality: float | None, utility: float | None) -> LearningRateTrial:
    return LearningRateTrial(lr, quality, utility, 0.1, 1.0)


def test_the_best_trial_forgets_most_among_those_that_stay_useful() -> None:
    trials = [trial(1, 0.9, 0.2), trial(2, 0.3, 0.6), trial(3, 0.1, 0.7), trial(4, None, None)]

    assert choose_trial(trials, floor=0.5).lr == 2


def test_where_no_trial_stays_useful_the_most_useful_is_taken() -> None:
    assert choose_trial([trial(1, 0.9, 0.2), trial(2, 0.1, 0.3), trial(3, None, None)], floor=0.5).lr == 2


def test_a_recipe_is_a_spec_the_engine_accepts() -> None:
    from soul_core.spec import JobSpec

    spec = JobSpec.model_validate(make_unlearning_spec({"kind": "npo"}, {"kind": "sophia"}, Budget(), seed=1))

    assert (spec.training.steps, spec.training.forget_batch) == (Budget().steps, Budget().batch)
