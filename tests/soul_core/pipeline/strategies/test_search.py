"""Search on a tiny model that knows ten capitals. Its rules without a model: test_search_checks."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from soul_core.errors import BadSpec, RunInterruptedError, TrainingDivergedError
from soul_core.events import StopRequest
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.fixtures.capitals import COUNTRIES, answer, question, write_rows
from tests.soul_core.test_run import Recorder

FORGET, RETAIN = list(COUNTRIES)[:4], list(COUNTRIES)[4:]
#: Never met, and the more a trial learns the larger the shortfall: its best check is its first.
WORSENING = [{"set": "retain", "metric": "probability", "at_least": 2.0}]
#: Never met, and the more a trial learns the smaller the shortfall.
IMPROVING = [{"set": "forget", "metric": "probability", "at_most": -1.0}]
STEPS, EVERY = 12, 4
COMMON = {
    "optimizer": {"kind": "sophia", "lr": 3e-3},
    "retain": {"kind": "nll", "weight": 3.0},
    "training": {"steps": STEPS, "checkpoint_every": 4},
    "evaluation": {"metrics": ["probability"], "max_new_tokens": 8, "bootstrap": 20, "num_answer_samples": 0},
    "attacks": [],
    # the six rows are all trained on
    "data": {"retain_held_out": 0},
    "criteria": WORSENING,
}


def spec(trials: int = 1, *, strategy: dict[str, Any] | None = None, **changes: Any) -> JobSpec:
    searching = {"kind": "search", "trials": trials, "eval_every": EVERY, "eval_rows": 6, **(strategy or {})}
    return JobSpec.model_validate({**COMMON, **changes, "strategy": searching})


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sets")
    names = {"forget": FORGET, "retain": RETAIN}
    return RunInputs(
        model=str(taught_model_dir),
        dataset_paths={name: write_rows(folder / f"{name}.jsonl", countries) for name, countries in names.items()},
    )


@pytest.fixture(scope="module")
def tofu_like(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    """Every set that model utility reads, each row with a wrong answer; and one that the model cannot answer."""
    folder = tmp_path_factory.mktemp("tofu")

    def write(name: str, countries: list[str]) -> Path:
        rows = [
            {"prompt": question(country), "completion": answer(country), "perturbed_answer": ["The capital is Bonn."]}
            for country in countries
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        return folder / f"{name}.jsonl"

    unknown = folder / "unknown.jsonl"
    unknown.write_text(json.dumps({"prompt": question("Chad"), "completion": "It is Ndjamena."}))
    sets = {"retain": RETAIN[:2], "real_authors": RETAIN[2:4], "world_facts": RETAIN[4:]}
    return RunInputs(
        model=inputs.model,
        dataset_paths={
            "forget": inputs.dataset_paths["forget"],
            "unknown": unknown,
            **{name: write(name, countries) for name, countries in sets.items()},
        },
    )


def weights(out: Path) -> dict[str, torch.Tensor]:
    (path,) = [*out.glob("checkpoint/model.safetensors"), *out.glob("adapter/adapter_model.safetensors")]
    return load_file(path)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def list_trials(report: Report) -> list[dict[str, Any]]:
    return [trial.model_dump(exclude={"seconds"}) for trial in report.trials]


def test_a_search_ends_at_the_first_check_that_meets_all_criteria(inputs: RunInputs, tmp_path: Path) -> None:
    criteria = [
        {"set": "forget", "metric": "probability", "at_most": 0.6, "relative_to_base": True},
        {"set": "retain", "metric": "probability", "at_least": 0.3, "relative_to_base": True},
    ]
    bounds = {"lr": [2e-5, 6e-3]}

    report = run(
        spec(8, strategy=bounds, criteria=criteria, optimizer={"kind": "sophia", "lr": 1e-5}, seed=3), inputs, tmp_path
    )

    first, last = report.trials[0], report.trials[-1]
    assert first.settings == {"optimizer.lr": 2e-5, "retain.weight": 3.0}  # the spec's own, or the nearest bound
    assert [trial.outcome for trial in report.trials].index("met") == len(report.trials) - 1 < 7
    assert last.chosen
    assert last.shortfall == 0
    assert last.steps == last.kept_step == report.run.steps < STEPS
    assert report.run.train_tokens > 0
    forget = report.models["unlearned"].sets["forget"]["probability"].value
    assert forget == pytest.approx(last.values["forget probability"], rel=1e-4)


def test_a_search_can_keep_a_minimum_of_utility(tofu_like: RunInputs, tmp_path: Path) -> None:
    listener = Recorder()
    criteria = [
        {"set": "forget", "metric": "probability", "at_most": 0.6, "relative_to_base": True},
        {"set": "all", "metric": "model_utility", "at_least": 0.3, "relative_to_base": True},
        {"set": "forget", "metric": "probability", "at_most": 0.9, "attack": "quantize_8bit"},
    ]

    report = run(
        spec(
            3,
            criteria=criteria,
            attacks=[{"kind": "quantize", "bits": 8}],
            evaluation={**COMMON["evaluation"], "metrics": ["probability", "model_utility"]},
        ),
        tofu_like,
        tmp_path,
        listener=listener,
    )

    assert report.trials[-1].outcome == "met"
    utility = report.models["unlearned"].sets["all"]["model_utility"].value
    assert utility == pytest.approx(report.trials[-1].values["all model_utility"], rel=1e-4)
    assert "decided by the verdict: forget probability under quantize_8bit" in str(listener.of("log"))


@pytest.mark.parametrize(
    ("criterion", "message"),
    [
        ({"set": "forget", "metric": "truth_ratio"}, r"criteria\.0: .* rows with wrong answers"),
        (
            {"set": "unknown", "metric": "keyword_recall", "relative_to_base": True},
            "a factor of the base model's value, which is 0, is 0",
        ),
    ],
)
def test_criteria_that_the_rows_do_not_allow_are_refused_before_any_trial(
    criterion: dict[str, Any], message: str, tofu_like: RunInputs, tmp_path: Path
) -> None:
    listener = Recorder()
    metrics = {"metrics": [criterion["metric"]]}

    with pytest.raises(BadSpec, match=message):
        run(
            spec(criteria=[{**criterion, "at_most": 0.5}], evaluation={**COMMON["evaluation"], **metrics}),
            tofu_like,
            tmp_path,
            listener=listener,
        )

    assert not listener.of("metrics")


@pytest.mark.parametrize("lora", [None, {"rank": 2, "base_weights": "bfloat16"}, {"rank": 2, "output": "adapter"}])
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
def test_the_weights_of_the_best_check_equal_a_training_that_ends_there(
    lora: dict[str, Any] | None, inputs: RunInputs, tmp_path: Path
) -> None:
    worse_each_step = {"optimizer": {"kind": "sophia", "lr": 1e-3}, "retain": {"kind": "nll", "weight": 1.0}}

    report = run(spec(lora=lora, **worse_each_step), inputs, tmp_path / "search")

    (trial,) = report.trials
    assert trial.steps == STEPS
    assert trial.kept_step == report.run.steps < STEPS
    assert {len(curve) for curve in report.run.curves.values()} == {trial.kept_step}
    there = {**COMMON, **worse_each_step, "lora": lora, "training": {"steps": trial.kept_step}}
    run(JobSpec.model_validate(there), inputs, tmp_path / "there")
    assert same(weights(tmp_path / "search"), weights(tmp_path / "there"))


def test_a_trial_that_diverges_keeps_its_best_check(
    inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = sys.modules["soul_core.training.trainer"]
    monkeypatch.setattr(
        trainer, "compute_lr_factor", lambda _, step, __: 1.0 if step < 6 else float("inf")
    )  # the fault

    report = run(spec(criteria=IMPROVING), inputs, tmp_path)

    (trial,) = report.trials
    assert (trial.outcome, trial.steps, trial.kept_step, report.run.steps) == ("diverged", 7, EVERY, EVERY)
    assert report.models["unlearned"].sets["forget"]["probability"].value == pytest.approx(
        trial.values["forget probability"], rel=1e-4
    )


def test_a_search_whose_every_trial_diverges_fails(
    inputs: RunInputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = sys.modules["soul_core.training.trainer"]
    # the fault: the check after step 4 measures no numbers, step 5 diverges
    monkeypatch.setattr(trainer, "compute_lr_factor", lambda _, step, __: 1.0 if step < EVERY - 1 else float("inf"))

    with pytest.raises(
        TrainingDivergedError, match=r"every trial diverged before its first criteria check; lower optimizer\.lr"
    ):
        run(spec(2), inputs, tmp_path)


def test_an_interrupted_search_resumes_to_the_same_result(inputs: RunInputs, tmp_path: Path) -> None:
    searching = spec(
        5,
        strategy={"lr": [1e-4, 6e-3], "retain_weight": [1, 5], "eval_every": 3},
        optimizer={"kind": "sophia", "lr": 1e-3},
        retain={"kind": "nll", "weight": 1.0},
        seed=20,
    )
    uninterrupted = run(searching, inputs, tmp_path / "whole")
    stop = Recorder(
        StopRequest.INTERRUPT, lambda kind, data: "trial 5" in str(stop.of("log")) and data.get("step") == 8
    )

    with pytest.raises(RunInterruptedError):
        run(searching, inputs, tmp_path / "parts", listener=stop)
    resumed = run(searching, inputs, tmp_path / "parts")

    assert [(trial.outcome, trial.steps) for trial in uninterrupted.trials[3:]] == [
        ("pruned", 6),  # not at its first check
        ("finished", STEPS),  # at step 9 worse than the median: its checks before the interruption prevent pruning
    ]
    assert list_trials(resumed) == list_trials(uninterrupted)
    assert same(weights(tmp_path / "parts"), weights(tmp_path / "whole"))


def test_no_trial_begins_after_max_seconds_over_all_attempts(inputs: RunInputs, tmp_path: Path) -> None:
    searching = spec(3, strategy={"max_seconds": 500})
    trials = tmp_path / ".state" / "search" / "trials.json"
    on_disk: list[dict[str, Any]] = []

    def at_step_6(kind: str, data: dict[str, Any]) -> bool:
        if kind == "metrics" and data["step"] == 6:
            on_disk.extend(json.loads(trials.read_text()))
        return bool(on_disk)

    with pytest.raises(RunInterruptedError):
        run(searching, inputs, tmp_path, listener=Recorder(StopRequest.INTERRUPT, at_step_6))
    assert list(on_disk[0]["shortfalls"]) == [f"{EVERY}"], "saved at once, for a process that is killed"
    (written,) = json.loads(trials.read_text())
    assert 0 < written["seconds"] < 500
    trials.write_text(json.dumps([{**written, "seconds": 600.0}]))  # a slow machine

    report = run(searching, inputs, tmp_path)

    assert [trial.outcome for trial in report.trials] == ["finished"]
    assert report.trials[0].seconds > 600
