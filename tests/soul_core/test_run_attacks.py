"""Attacks in a complete run: every model is attacked, no weight changes, criteria can name an attack."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from soul_core.errors import RunCancelledError, RunInterruptedError
from soul_core.events import StopRequest
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from soul_core.spec.attacks import CHEAP_ATTACKS, Downstream, Quantize, Relearn
from tests.fixtures.capitals import COUNTRIES, make_untrained_model, write_rows
from tests.soul_core.test_run import Recorder

COMMON = {
    "optimizer": {"kind": "sophia", "lr": 3e-3},
    "retain": {"kind": "nll", "weight": 3.0},
    "training": {"steps": 8, "checkpoint_every": 4},
    "evaluation": {
        "metrics": ["probability", "keyword_recall"],
        "max_new_tokens": 8,
        "attack_new_tokens": 8,
        "bootstrap": 20,
        "num_answer_samples": 0,
    },
}
RELEARN_CRITERION = {"set": "forget", "attack": "relearn", "metric": "probability", "at_least": 0}
SPEC = JobSpec.model_validate(
    {
        **COMMON,
        "criteria": [
            {"set": "forget", "metric": "probability", "at_most": 0.9, "relative_to_base": True},
            {"set": "forget", "attack": "quantize_8bit", "metric": "probability", "at_most": 0.9},
            {"set": "forget", "attack": "relearn", "metric": "probability", "at_least": 0, "relative_to_base": True},
            {
                "set": "forget",
                "attack": "relearn",
                "metric": "probability",
                "at_least": 0,
                "relative_to_retrained": True,
            },
        ],
    }
)


@pytest.fixture(scope="module")
def inputs(taught_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> RunInputs:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sets")
    (folder / "general.txt").write_text("Rivers run to the sea.\n\nThe sea is never full of rivers.\n")
    return RunInputs(
        model=str(taught_model_dir),
        compared_models={"retrained": str(make_untrained_model(folder / "untaught"))},
        dataset_paths={
            "forget": write_rows(folder / "forget.jsonl", list(COUNTRIES)[:4]),
            "retain": write_rows(folder / "retain.jsonl", list(COUNTRIES)[4:]),
            "general": folder / "general.txt",
        },
    )


@pytest.fixture(scope="module")
def finished_run(inputs: RunInputs, tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path, Recorder]:
    out, recorder = tmp_path_factory.mktemp("attacked"), Recorder()
    return run(SPEC, inputs, out, listener=recorder), out, recorder


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "checkpoint" / "model.safetensors")


def test_every_cheap_attack_compares_base_unlearned_and_retrained_model(
    finished_run: tuple[Report, Path, Recorder],
) -> None:
    report, _, recorder = finished_run

    assert [attack.label for attack in report.attacks] == [attack.label for attack in CHEAP_ATTACKS]
    for attack in report.attacks:
        assert attack.absent_reason is None, f"{attack.label}: {attack.absent_reason}"
        if attack.label != "poison":
            assert set(attack.attacked) == {"base", "unlearned", "retrained"}, attack.label
    progress = [data for data in recorder.of("progress") if data["phase"] == "attack"]
    assert progress
    assert report.run.seconds["attack"] > 0
    assert any(caveat.startswith("Attacks tried: relearn, relearn_retain") for caveat in report.caveats)


def test_criteria_may_name_an_attack(finished_run: tuple[Report, Path, Recorder]) -> None:
    report, _, _ = finished_run
    quantized = next(attack for attack in report.attacks if attack.label == "quantize_8bit")

    assert report.criteria[1].value == quantized.attacked["unlearned"]["forget"]["probability"].value
    assert [result.outcome for result in report.criteria[1:]] == ["passed", "passed", "passed"]


def test_what_an_attack_brings_back_is_reported_for_each_model(
    finished_run: tuple[Report, Path, Recorder],
) -> None:
    relearn = finished_run[0].attacks[0]

    for name in ("base", "unlearned", "retrained"):
        before, after, gain = (
            values[name]["forget"]["probability"] for values in (relearn.baseline, relearn.attacked, relearn.gains)
        )
        assert before.per_example is not None
        assert after.per_example is not None
        differences = [y - x for x, y in zip(before.per_example, after.per_example, strict=True)]
        assert gain.value == pytest.approx(sum(differences) / len(differences))
        assert gain.interval is not None


def test_a_log_of_a_report_replaces_the_attacks_on_the_retrained_model(
    finished_run: tuple[Report, Path, Recorder], inputs: RunInputs, tmp_path: Path
) -> None:
    report, out, _ = finished_run
    attacks = (Relearn(), Quantize(bits=8, group=0), Downstream(steps=3))
    spec = SPEC.model_copy(update={"attacks": attacks})
    logged = replace(inputs, compared_models={}, retrained_log_path=out / "report.json")

    again = run(spec, logged, tmp_path)

    assert again.attacks[0].attacked["retrained"] == report.attacks[0].attacked["retrained"]
    assert again.criteria[3].bound == report.criteria[3].bound, "a factor of the same value"
    downstream = again.attacks[2]
    assert "retrained" not in downstream.attacked
    assert any("with other settings; compare with the retrained model itself" in note for note in downstream.notes)


def test_attacks_do_not_change_the_weights(
    finished_run: tuple[Report, Path, Recorder], inputs: RunInputs, tmp_path: Path
) -> None:
    run(JobSpec.model_validate({**COMMON, "attacks": [], "criteria": []}), inputs, tmp_path)

    attacked, quiet = weights(finished_run[1]), weights(tmp_path)
    assert all(torch.equal(attacked[name], quiet[name]) for name in quiet)


@pytest.mark.parametrize("model", ["base", "unlearned"])
def test_a_run_interrupted_under_attack_resumes_to_the_same_numbers(
    finished_run: tuple[Report, Path, Recorder], inputs: RunInputs, tmp_path: Path, model: str
) -> None:
    attacking = False

    def second_attack(kind: str, data: dict[str, object]) -> bool:
        nonlocal attacking
        attacking = attacking or (kind, data.get("phase"), data.get("detail")) == ("phase", "attack", model)
        return attacking and kind == "progress" and data["phase"] == "attack"

    with pytest.raises(RunInterruptedError):
        run(SPEC, inputs, tmp_path, listener=Recorder(StopRequest.INTERRUPT, second_attack))
    report = run(SPEC, inputs, tmp_path)

    drop = {"seconds"}
    assert [a.model_dump(exclude=drop) for a in report.attacks] == [
        a.model_dump(exclude=drop) for a in finished_run[0].attacks
    ]
    first, second = weights(finished_run[1]), weights(tmp_path)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_cancelled_under_attack_leaves_no_file(inputs: RunInputs, tmp_path: Path) -> None:
    cancel = Recorder(StopRequest.CANCEL, lambda kind, data: kind == "progress" and data["phase"] == "attack")

    with pytest.raises(RunCancelledError):
        run(SPEC, inputs, tmp_path, listener=cancel)

    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == []
