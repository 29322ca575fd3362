"""The three kinds of run, and models to compare with."""

import json
from pathlib import Path

import pytest
import torch

from soul_core.errors import BadSpec
from soul_core.models.loading import load_model
from soul_core.report import Report
from soul_core.run import RunInputs, run
from soul_core.spec import JobSpec
from tests.fixtures.capitals import COUNTRIES, make_untrained_model, write_rows
from tests.soul_core.test_run import Recorder

FORGET, RETAIN = list(COUNTRIES)[:4], list(COUNTRIES)[4:]
EVALUATION = {"max_new_tokens": 16, "bootstrap": 50, "num_answer_samples": 6}
FINETUNE = JobSpec.model_validate(
    {
        "kind": "finetune",
        "optimizer": {"kind": "adamw", "lr": 1e-2},
        "training": {"steps": 30, "retain_batch": 6},
        "evaluation": EVALUATION,
    }
)
AUDIT = JobSpec.model_validate({"kind": "evaluate", "evaluation": EVALUATION, "attacks": []})


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sets")
    return {
        "forget": write_rows(folder / "forget.jsonl", FORGET),
        "retain": write_rows(folder / "retain.jsonl", RETAIN),
    }


@pytest.fixture(scope="module")
def finetuned_model(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Path]:
    out = tmp_path_factory.mktemp("finetuned")
    return run(
        FINETUNE,
        RunInputs(
            model=str(make_untrained_model(tmp_path_factory.mktemp("untaught"))),
            dataset_paths={"train": sets["retain"]},
        ),
        out,
    ), out


def test_finetuning_learns_its_train_set_and_writes_a_model(finetuned_model: tuple[Report, Path]) -> None:
    report, out = finetuned_model

    before, after = (report.models[name].sets["train"]["probability"].value for name in ("base", "finetuned"))
    assert before is not None
    assert after is not None
    assert after > before
    assert report.verdict == "passed"
    assert "recovered" not in report.verdict_reason, "nothing was unlearned"
    assert set(report.run.curves) == {"loss", "grad_norm", "lr"}
    load_model(str(out / "checkpoint"), device="cpu")


def test_an_evaluation_changes_no_model_and_compares_several(
    taught_model_dir: Path, finetuned_model: tuple[Report, Path], sets: dict[str, Path], tmp_path: Path
) -> None:
    others = {"base": str(taught_model_dir), "retrained": str(finetuned_model[1] / "checkpoint")}
    inputs = RunInputs(model=str(taught_model_dir), dataset_paths=sets, compared_models=others)
    recorder = Recorder()

    report = run(AUDIT, inputs, tmp_path, listener=recorder)

    assert list(report.models) == ["base", "evaluated", "retrained"]
    assert report.models["base"].sets == report.models["evaluated"].sets
    assert report.retrained is not None
    assert report.retrained.source == "checkpoint"
    assert report.retrained.digest != report.model.digest
    assert report.run.steps == 0
    assert set(report.examples[0].answers) == {"base", "evaluated", "retrained"}
    assert not (tmp_path / "checkpoint").exists()
    listed = {entry["path"] for entry in json.loads((tmp_path / "manifest.json").read_text())["files"]}
    assert listed == {"report.json", "report.html", *(f"logs/{name}.json" for name in report.models)}
    assert [(data["phase"], data.get("detail")) for data in recorder.of("phase")] == [
        ("load", None),
        ("compare", "base"),
        ("compare", "retrained"),
        ("evaluate", "evaluated"),
        ("export", None),
    ]


def test_probes_of_the_forget_rows_are_measured_as_additional_sets(
    taught_model_dir: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    evaluation = {**EVALUATION, "metrics": ["keyword_recall"], "probes": ["fill_in", "question"]}
    spec = JobSpec.model_validate({"kind": "evaluate", "evaluation": evaluation, "attacks": []})

    report = run(spec, RunInputs(model=str(taught_model_dir), dataset_paths=sets), tmp_path)

    audited = report.models["evaluated"]
    assert {"forget_fill_in", "forget_question"} <= set(audited.rows)
    assert audited.sets["forget_question"]["keyword_recall"].count == len(FORGET)
    assert [facts.name for facts in report.data] == ["forget", "retain"]


@pytest.mark.parametrize(
    ("spec", "names", "models", "claim"),
    [
        ({"kind": "finetune"}, ["retain"], [], "there is no train set"),
        ({"kind": "finetune", "forget": {"kind": "grad_diff"}}, ["train"], [], "has no forget term"),
        ({"kind": "evaluate"}, [], [], "there is no data set"),
        ({"kind": "evaluate", "optimizer": {"kind": "adamw"}}, ["forget"], [], "changes no model"),
        (
            {},
            ["forget", "retain"],
            ["other"],
            "measures no model 'other', only 'retrained'; compare models with kind",
        ),
        ({"kind": "evaluate"}, ["forget"], ["evaluated"], "choose another name"),
        ({}, ["retain"], [], "there is no forget set"),
        (
            {"criteria": [{"set": "forget", "attack": "relern", "metric": "probability", "at_most": 1}]},
            ["forget", "retain"],
            [],
            "the spec has no attack 'relern'; its attacks are: relearn",
        ),
        (
            {"attacks": [{"kind": "relearn"}, {"kind": "relearn", "steps": 9}]},
            ["forget", "retain"],
            [],
            "another attack has the label",
        ),
    ],
)
def test_what_a_kind_does_not_support_is_refused_with_a_remedy(
    spec: dict[str, object], names: list[str], models: list[str], claim: str, tmp_path: Path
) -> None:
    inputs = RunInputs(
        model="m", dataset_paths=dict.fromkeys(names, tmp_path), compared_models=dict.fromkeys(models, "m")
    )

    with pytest.raises(BadSpec, match=claim):
        run(JobSpec.model_validate(spec), inputs, tmp_path)
